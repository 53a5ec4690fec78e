"""The table of matches on the page, and the word it guards."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pandas as pd
import pytest

from sinkscope.report import _matching as matching
from sinkscope.report import _words as words
from sinkscope.report import build
from sinkscope.report._arms import read_arms
from sinkscope.report._data import read


def words_of(page: str) -> str:
    return html.unescape(
        re.sub(r"\s+", " ", re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.S))
    )


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures, which take most of the time."""
    for name in ("_forests", "_doses", "_dynamics_pictures"):
        monkeypatch.setattr(f"sinkscope.report._page.{name}", lambda *given: [])


def section(page: str) -> str:
    return words_of(page[page.index("How closely the controls match") :].partition("<h3>Replacement")[0])


def test_the_page_shows_treated_against_control(plain: None, run_folder: Path) -> None:
    text = section(build(run_folder).read_text())
    table = pd.read_parquet(run_folder / "matches.parquet").set_index(["property", "segment"])
    ratio = table.loc[("mass", ""), "ratio"]
    assert "sink_1 against random_1 keys per head 1.00 1.00 1.00 not available yes, within 5.0 %" in text
    assert f"{ratio:.3f}" in text
    assert "share in text 85 % 38 % 0.447 not available no" in text
    assert "kept from the step before 80 % 2.0 %" in text


def test_a_run_without_the_table_says_so(plain: None, run_folder: Path) -> None:
    (run_folder / "matches.parquet").unlink()
    page = build(run_folder).read_text()
    assert "Not available: the run compares no edit with a control" in section(page)
    assert "specific to sinks" not in words_of(page).lower()


def test_only_a_matched_run_says_the_word(run_folder: Path) -> None:
    effects = pd.read_parquet(run_folder / "effects.parquet")
    same = effects["kind"] == "edit-control"
    # RMSE further from the baseline than the control, for sure.
    effects.loc[same & (effects["metric"] == "rmse"), ["effect", "verdict"]] = [0.2, "different"]
    data = read(run_folder)
    arms, table = read_arms(data.study), data.table("matches")
    assert table is not None
    loose = words.headline(effects, arms, table)
    assert loose.endswith("so this does not show that being a sink matters.")
    # Persistence is not part of the claim.
    full = table.assign(matched=table["property"] != "persistence")
    assert "This is specific to sinks" in words.headline(effects, arms, full)
    assert "This is specific to sinks" in words.specificity(effects, arms, full).answer


def test_missing_numbers_are_not_zero() -> None:
    row = {"arm": "a", "reference": "b", "property": "mass", "segment": "", "treated": 0.1}
    row |= {"control": float("nan"), "ratio": float("nan"), "in_call": float("nan"), "tolerance": 0.05}
    made = matching.table(pd.DataFrame([{**row, "matched": False, "control_kind": "mass", "calls": 3}]))
    assert made is not None
    assert made.rows == [
        ["a against b", "mass of the keys", "10 %", "not available", "not available", "not available", "no"]
    ]
    assert matching.table(None) is None
