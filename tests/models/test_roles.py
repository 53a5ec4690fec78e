"""Mass by segment and role, and who takes it over after an edit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.tiny import run, tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl

from sinkscope.attention import Mask, ReplaceValue, TopMass
from sinkscope.errors import UsageError
from sinkscope.models import Edit, intervene, observe

PLACE = ["step", "branch", "unit", "site", "queries", "evaluation"]


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_sd3()


def latent(pipe: Any, **changes: Any) -> torch.Tensor:
    result: torch.Tensor = run(pipe, output_type="latent", **changes)
    return result


@pytest.mark.parametrize("make", [tiny_sd3, tiny_flux, tiny_sdxl, tiny_pixart])
def test_shares_of_every_stream_sum_to_one(make: Any) -> None:
    pipe = make()
    stock = latent(pipe)
    with observe(pipe, kind="all") as seen:
        assert torch.equal(latent(pipe), stock)
    roles, summary = seen.roles(), seen.summary()
    groups = roles.groupby(PLACE, dropna=False)
    np.testing.assert_allclose(groups["mass"].sum(), 1, rtol=1e-5)
    keys = groups["keys"].sum().reset_index()
    merged = keys.merge(summary, on=["step", "branch", "unit", "site", "evaluation"])
    assert (merged["keys_x"] == merged["keys_y"]).all() and len(merged) == len(keys)
    assert set(roles["segment"]) <= {"image", "text"} and (roles["mass"] >= 0).all()


def test_each_stream_is_weighed_apart_and_equals_the_mass_of_every_key(sd3: Any) -> None:
    with observe(sd3, layers=[1], heads=[1], queries=("text", "image")) as seen:
        latent(sd3, prompt="a cat")
    roles, sinks = seen.roles(), seen.sinks(keys_per_head=42)
    names = [*PLACE, "segment", "role", "encoder"]
    told = sinks.groupby(names, dropna=False)["mass"].sum()
    ours = roles.set_index(names)["mass"]
    assert len(ours) == len(told) and set(roles["queries"]) == {"image", "text"}
    pd.testing.assert_series_equal(
        ours.sort_index(), told.sort_index(), check_dtype=False, check_index_type=False, rtol=1e-5
    )


def test_masked_padding_is_no_open_key() -> None:
    pipe = tiny_pixart()
    with observe(pipe, kind="cross") as seen:
        latent(pipe)
    roles = seen.roles()
    padding = roles[roles["role"] == "pad"]
    assert len(padding) and (padding["keys"] == 0).all() and (padding["mass"] == 0).all()


def test_what_is_not_kept_is_not_told(sd3: Any) -> None:
    with observe(sd3, layers=[1], keep=("mass",)) as seen:
        latent(sd3)
    with pytest.raises(UsageError, match="keep="):
        seen.roles()
    with intervene(sd3, Edit(TopMass(keys_per_head=1))) as receipt:
        latent(sd3)
    with pytest.raises(UsageError, match='receipt="full"'):
        receipt.takeover()


def test_what_the_edited_keys_lose_the_others_gain(sd3: Any) -> None:
    edit = Edit(TopMass(keys_per_head=2), Mask(), layers=[0, 1])
    with intervene(sd3, edit, receipt="full") as receipt:
        latent(sd3, prompt=["a cat", "x!"])
    taken, table, edited = receipt.takeover(), receipt.table(), receipt.edited_keys()
    place = ["step", "branch", "unit", "site", "evaluation"]
    sums = taken.groupby(place)[["removed", "gain", "mass_before", "mass_after"]].sum()
    np.testing.assert_allclose(sums["gain"], sums["removed"], atol=1e-6)
    np.testing.assert_allclose(sums[["mass_before", "mass_after"]], 1, rtol=1e-5)
    told = table.groupby(place)[["mass_before", "mass_after"]].mean()
    lost = (told["mass_before"] - told["mass_after"]).reindex(sums.index)
    np.testing.assert_allclose(sums["removed"], lost, rtol=1e-5)
    names = [*place, "segment", "role", "encoder"]
    heads = table["head"].nunique()
    by_kind = edited.fillna({"role": "-", "encoder": "-"}).groupby(names)[["mass_before", "mass_after"]].sum()
    by_kind = by_kind / heads
    ours = taken.fillna({"role": "-", "encoder": "-"}).set_index(names)["removed"].reindex(by_kind.index)
    edited_mass = taken.groupby(place)["edited"].sum()
    np.testing.assert_allclose(edited_mass, told["mass_before"].reindex(edited_mass.index), rtol=1e-5)
    np.testing.assert_allclose(ours, by_kind["mass_before"] - by_kind["mass_after"], rtol=1e-4, atol=1e-7)


def test_an_edit_of_values_moves_no_mass(sd3: Any) -> None:
    edit = Edit(TopMass(keys_per_head=2), ReplaceValue(with_="zero"), layers=[1], branch="cond")
    with intervene(sd3, edit, receipt="full") as receipt:
        latent(sd3)
    taken = receipt.takeover()
    assert (taken[["removed", "gain"]] == 0).all().all() and set(taken["branch"]) == {"cond"}
