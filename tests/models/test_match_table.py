"""What a control is said to match, it matches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.tiny import run, tiny_sd3

from sinkscope.attention import ScaleProbability, TopMass
from sinkscope.errors import UsageError
from sinkscope.models import Edit, intervene, match_table


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_sd3()


def receipts(pipe: Any, edit: Edit) -> pd.DataFrame:
    with intervene(pipe, edit) as kept:
        run(pipe, output_type="latent", num_inference_steps=4)
    return kept.table()


def test_tables_by_hand() -> None:
    treated = pd.DataFrame(
        {
            "keys": [2, 2, 0, 4],
            "mass_before": [0.2, 0.2, 0.0, 0.4],
            "kept": [np.nan, 0.5, np.nan, 1.0],
            "keys_text": [2, 2, 0, 2],
            "keys_image": [0, 0, 0, 2],
        }
    )
    control = pd.DataFrame(
        {
            "keys": [2, 2, 0, 4],
            "mass_before": [0.05, 0.05, 0.0, 0.1],
            "kept": [np.nan, 0.0, np.nan, 0.25],
            "treated_keys": [2, 2, 0, 4],
            "treated_mass": [0.1, 0.1, 0.0, 0.2],
            "keys_image": [2, 2, 0, 3],
            "keys_text": [0, 0, 0, 1],
        }
    )
    table = match_table(treated, control).set_index(["property", "segment"])
    assert table.loc[("count", "")].tolist() == [2.0, 2.0, 1.0, 0.0, 0.05, True, 4]
    mass = table.loc[("mass", "")]
    assert (mass["treated"], mass["control"], mass["ratio"], mass["in_call"]) == pytest.approx(
        (0.2, 0.05, 0.25, 0.5)
    )
    assert table.loc[("segment", "text"), "treated"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert table.loc[("segment", "text"), "control"] == pytest.approx(0.25 / 3)
    persistence = table.loc[("persistence", "")]
    assert (persistence["treated"], persistence["control"], persistence["calls"]) == (0.75, 0.125, 2)
    assert table["matched"].sum() == 1


def test_equal_means_are_not_a_match_where_the_calls_differ() -> None:
    treated = pd.DataFrame({"keys": [1, 1], "mass_before": [0.1, 0.3]})
    control = treated.assign(treated_mass=[0.3, 0.1], treated_keys=1)
    table = match_table(treated, control).set_index("property")
    assert table.loc["mass", "ratio"] == 1.0 and table.loc["mass", "in_call"] == pytest.approx(1.0)
    assert not table.loc["mass", "matched"] and table.loc["count", "matched"]
    assert match_table(treated, control, tolerance=1.1)["matched"].all()


def test_without_receipts_there_is_no_table() -> None:
    good = pd.DataFrame({"keys": [1], "mass_before": [0.1]})
    with pytest.raises(UsageError, match="of the control edit have no rows"):
        match_table(good, good.head(0))
    with pytest.raises(UsageError, match="of the treated edit lack mass_before"):
        match_table(good[["keys"]], good)
    blind = match_table(good, good.assign(mass_before=np.nan)).set_index("property")
    assert not blind.loc["mass", "matched"]


@pytest.mark.parametrize(
    ("kind", "matched", "missed"),
    [
        ("count", {"count"}, set()),
        ("segment", {"count", "segment"}, set()),
        ("mass", {"mass"}, set()),
        ("persistence", {"count", "segment", "persistence"}, set()),
        ("bottom", {"count"}, {"mass"}),
        ("next", {"count"}, set()),
        ("query", set(), {"count", "mass", "segment"}),
    ],
)
def test_each_control_matches_what_it_says(sd3: Any, kind: str, matched: set[str], missed: set[str]) -> None:
    # A weak edit, so that both arms see nearly the same calls.
    edit = Edit(TopMass(keys_per_head=3), ScaleProbability(0.9), layers=[0, 1])
    table = match_table(receipts(sd3, edit), receipts(sd3, edit.control(kind, seed=1)))
    found = table.groupby("property")["matched"].all()
    assert matched <= set(found[found].index)
    assert missed <= set(found[~found].index)
    if kind == "mass":
        assert float(table.set_index("property").loc["mass", "in_call"]) <= 0.01


def test_only_the_persistence_control_is_as_persistent(sd3: Any) -> None:
    edit = Edit(TopMass(keys_per_head=6), ScaleProbability(0.9), layers=[0, 1])
    treated = receipts(sd3, edit)
    kept = {
        kind: match_table(treated, receipts(sd3, edit.control(kind))).set_index("property").loc["persistence"]
        for kind in ("segment", "persistence")
    }
    assert kept["segment"]["treated"] > 0.6 and kept["segment"]["control"] < 0.4
    assert abs(kept["persistence"]["control"] - kept["persistence"]["treated"]) < 0.05
