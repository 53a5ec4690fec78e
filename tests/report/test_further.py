"""Tables below the effects: ratios, boundaries, other settings, sets of images, left-out tasks, PSNR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.report.test_page import page, text

from sinkscope.report import _further as further
from sinkscope.report import _verdicts as verdicts
from sinkscope.report._arms import read_arms

INF, NAN = np.inf, np.nan


def rows(entry: further.Further | None) -> list[list[str]]:
    assert entry is not None
    return entry.table.rows


RATIO = {"metric": "rmse", "task": "all", "arm": "sink_1", "reference": "random_1", "n_prompts": 42}


def test_ratios_in_words() -> None:
    frame = pd.DataFrame(
        [
            {**RATIO, "ratio": 9.685, "ci_low": 4.35, "ci_high": 20.52, "note": ""},
            {**RATIO, "ratio": 5.2, "ci_low": 3.0, "ci_high": INF, "note": "no upper bound"},
            {**RATIO, "ratio": NAN, "ci_low": NAN, "ci_high": NAN, "note": "the denominator is zero"},
            {**RATIO, "task": "two_object", "ratio": 1.0, "ci_low": 1.0, "ci_high": 1.0, "note": ""},
        ]
    )
    made = rows(further.ratios(frame))
    assert [row[1:] for row in made] == [
        ["sink_1 / random_1", "9.69×", "[4.35×, 20.5×]", "42", ""],
        ["sink_1 / random_1", "5.20×", "[3.00×, ∞]", "42", "no upper bound"],
        ["sink_1 / random_1", "not available", "not available", "42", "the denominator is zero"],
    ]
    without = further.ratios(frame.iloc[[0]])
    assert without is not None and without.table.columns[-1] == "prompts" and not without.folded
    many = further.ratios(pd.concat([frame.iloc[[0]]] * 21))
    assert many is not None and many.folded
    assert further.ratios(frame.iloc[[3]]) is None


def test_boundaries_in_words() -> None:
    base = {"metric": "rmse", "task": "all", "margin": 0.02, "arms": "sink_1, sink_5", "controls": "random_1"}
    edit = {"within": 1.0, "threshold": 5.0, "threshold_low": 1.0, "threshold_high": 5.0, "boundary": 5.0}
    control = {"within": NAN, "threshold": INF, "threshold_low": 5.0, "threshold_high": INF, "boundary": NAN}
    frame = pd.DataFrame(
        [
            {**base, "series": "edit", **edit, "note": ""},
            {**base, "series": "control", **control, "note": "not reached"},
        ]
    )
    first, second = rows(further.boundary(frame))
    assert first[1:] == ["sink_1, sink_5", "±0.020", "1", "5", "1 to 5", "5", ""]
    assert second[1:] == ["random_1", "±0.020", "no dose", "none", "5 to none", "not reached", "not reached"]


def test_distances_and_left_out_tasks_in_words() -> None:
    about = {"arm": "sink_1", "reference": "baseline", "checkpoint": "shapes", "n_units": 42}
    good = {"value": 0.012, "ci_low": 0.004, "ci_high": 0.02, "p_swap": 0.0004, "status": "ok", "note": ""}
    bad = {"value": NAN, "ci_low": NAN, "ci_high": NAN, "p_swap": NAN, "status": "rank 41", "note": ""}
    frame = pd.DataFrame([{"metric": "kid", **about, **good}, {"metric": "fd_clip", **about, **bad}])
    made = further.distances(frame)
    first, second = rows(made)
    assert first[:2] == ["KID", "sink_1 against baseline"] and first[4] == "< 0.001"
    assert second[2:] == ["not available", "not available", "not available", "42", "rank 41"]
    assert made is not None and "Features: shapes." in made.words
    about = {"metric": "scene", "arm": "sink_1", "reference": "baseline", "n_prompts": 30}
    about |= {"effect": -0.3, "ci_low": -0.5, "ci_high": -0.1, "verdict_all": "different"}
    left = [
        {**about, "left_out": "two_object", "verdict": "inconclusive", "changes": True},
        {**about, "left_out": "colors", "verdict": "different", "changes": False},
    ]
    entry = further.leave_one_out(pd.DataFrame(left))
    assert entry is not None and entry.words.endswith("left out at a time: 1 of 2 verdicts change.")
    assert [row[5] for row in rows(entry)] == ["inconclusive (with it: different)", "different"]


def test_the_same_edit_under_other_settings_in_words() -> None:
    row = {"metric": "scene", "task": "all", "edit": "sink_weak", "control": "sink", "n_prompts": 30}
    row |= {"effect_edit": -0.1, "effect_control": -0.3, "effect": 0.2, "ci_low": 0.1, "ci_high": 0.3}
    made = rows(further.double_effects(pd.DataFrame([{**row, "verdict": "different", "p_holm": 0.01}])))
    assert made[0][1:] == [
        "sink_weak (−0.100) − sink (−0.300)",
        *("+0.20", "[+0.10, +0.30]", "0.010", "different", "30"),
    ]


def test_psnr_is_shown_as_a_distance_only(undrawn: None, run_folder: Path) -> None:
    scores = pd.read_parquet(run_folder / "scores.parquet")
    psnr = scores[scores["metric"] == "rmse"].copy()
    psnr["metric"], psnr["value"] = "psnr", 80.0 - 200 * psnr["value"]
    pd.concat([scores, psnr]).to_parquet(run_folder / "scores.parquet")
    effects = pd.read_parquet(run_folder / "effects.parquet")
    stale = effects[effects["metric"] == "rmse"].assign(metric="psnr")
    pd.concat([effects, stale]).to_parquet(run_folder / "effects.parquet")
    source = page(run_folder)
    assert "Distance to the baseline's image Larger is closer." in text(source)
    assert "Verdicts of rmse" in source and "Verdicts of psnr" not in source
    table = rows(
        further.to_baseline(pd.concat([scores, psnr]), read_arms({"arms": {"null": {}, "sink_1": {}}}))
    )
    null, sink = table
    assert null[:6] == ["PSNR to baseline", "null", *["not available"] * 3, "100 %"]
    assert sink[5] == "0.0 %" and float(sink[2]) < 80


def test_refused_effects_are_named_on_the_page(undrawn: None, run_folder: Path) -> None:
    effects = pd.read_parquet(run_folder / "effects.parquet")
    gone = (effects["metric"] == "clip_t") & (effects["task"] == "all")
    note = "1 of 6 pairs missing (1 truncated); refused: at least 98% of the pairs must be complete"
    effects.loc[gone, "note"] = note
    effects.loc[gone, ["effect", "ci_low", "ci_high"]] = np.nan
    effects.to_parquet(run_folder / "effects.parquet")
    said = text(page(run_folder))
    assert f"No effect in CLIP-T of {gone.sum()} contrasts: null - baseline: {note}." in said


@pytest.mark.parametrize("name", sorted(verdicts.INTERVALS))
def test_the_page_says_how_intervals_were_made(name: str) -> None:
    row = {"arm": "a", "reference": "b", "kind": "arm-baseline", "effect": 1.0, "ci_low": 0.0, "ci_high": 2.0}
    made = verdicts._verdict({**row, "verdict": "inconclusive", "interval": name}, "a")
    assert verdicts.intervals([made, made]) == verdicts.INTERVALS[name]
    assert verdicts.intervals([verdicts._verdict({**row, "verdict": "inconclusive"}, "a")]) == ""
