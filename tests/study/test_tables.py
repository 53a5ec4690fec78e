"""Ratios, boundaries, left-out tasks and margins from seeds as a study makes them from its scores."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from tests.study.small import ARMS, SINK, tiny_study

from sinkscope import stats
from sinkscope.errors import UsageError
from sinkscope.stats import DoubleContrast
from sinkscope.study import Run, Study, _tables, _validate, contrasts, ladders
from sinkscope.study._analyse import MAKERS, double_contrasts
from sinkscope.study._arm import Arm

PROMPTS = [{"id": f"p{i:02d}", "text": f"prompt {i}", "task": f"task{i % 2}"} for i in range(24)]


def made(study: Study) -> pd.DataFrame:
    """Scores as the second stage writes them: distances to the baseline's image."""
    rng = np.random.default_rng(0)
    sizes = {"baseline": 0.0, "null": 0.0, "sink_1": 0.3, "random_1": 0.05, "sink_3": 0.6, "random_3": 0.1}
    rows = []
    for prompt in PROMPTS:
        for seed in study.seeds:
            noise = rng.gamma(9) / 9
            for arm in study.arm_names:
                for metric in study.metrics:
                    value = sizes.get(arm, 0.8) * noise * (1 + rng.normal() / 20)
                    rows.append(
                        {
                            "unit": f"{prompt['id']}-s{seed}",
                            "prompt_id": prompt["id"],
                            "prompt": prompt["text"],
                            "task": prompt["task"],
                            "seed": seed,
                            "arm": arm,
                            "metric": metric,
                            "value": 1 - value if metric == "ssim" else value,
                            "status": "ok",
                        }
                    )
    return pd.DataFrame(rows)


def study(**changes: Any) -> Study:
    return tiny_study(**{"prompts": PROMPTS, "draws": 300, **changes})


def tables(of: Study) -> dict[str, pd.DataFrame]:
    scores = made(of)
    return {name: make(scores, of, frozenset()) for name, make in MAKERS.items()}


def test_a_finished_run_holds_every_table(finished: Run) -> None:
    assert set(finished.ratios()["contrast"]) == {"sink_1 - random_1", "sink_3 - random_3"}
    assert set(finished.ratios()["metric"]) == {"ssim", "rmse"}
    boundary = finished.boundary()
    assert set(boundary["metric"]) == {"rmse"} and set(boundary["series"]) == {"edit", "control"}
    assert (boundary["arms"] == "sink_1, sink_3").all() and (boundary["doses"] == "1, 3").all()
    assert finished.leave_one_out().empty  # the prompts of the run have one task


def test_tables_of_a_study() -> None:
    found = tables(study())
    ratio = found["ratios"].set_index(["metric", "task", "contrast"])
    assert ratio.loc[("rmse", "all", "sink_1 - random_1"), "ratio"] == pytest.approx(6, rel=0.05)
    same = ratio.loc[("ssim", "all", "sink_1 - random_1")]
    assert same["zero"] == 1 and same["ratio"] == pytest.approx(6, rel=0.05)
    boundary = found["boundary"].set_index(["task", "series"])
    assert boundary.loc[("all", "edit"), ["threshold", "boundary"]].tolist() == [1, 1]
    assert boundary.loc[("all", "control"), "boundary"] == 3
    left = found["leave_one_out"]
    assert set(left["left_out"]) == {"task0", "task1"}
    assert len(left) == 2 * 2 * len(contrasts(study()))
    assert {"p_bh", "p_signflip", "interval_verdict"} <= set(found["effects"].columns)


def test_the_intervals_of_a_study_are_those_of_mean_interval() -> None:
    assert set(_validate.INTERVALS) == {"auto", *get_args(stats._intervals.Method)}
    for name in _validate.INTERVALS[1:]:
        assert {name} <= set(tables(study(interval=name))["effects"]["interval"].dropna()) <= {name, ""}


def test_nothing_to_fill_a_table_leaves_its_columns() -> None:
    bare = study(arms={"sink_1": SINK}, margins={})
    found = tables(bare)
    assert found["ratios"].empty and tuple(found["ratios"].columns) == stats._ratio_table.RATIO_COLUMNS
    assert found["boundary"].empty and "boundary" in found["boundary"].columns
    assert not ladders(bare) and len(found["leave_one_out"])
    empty = {name: make(made(bare).iloc[:0], bare, frozenset()) for name, make in MAKERS.items()}
    assert all(table.empty for table in empty.values())


def test_the_margin_seed_reads_the_reseeded_arm_of_the_study() -> None:
    arms = {**ARMS, "other": Arm(seed_shift=1000)}
    seeds = study(arms=arms, margins={"rmse": "seed"})
    assert _tables.seed_arms(seeds) == ["other"]
    rows = tables(seeds)["effects"].query("metric == 'rmse' and task == 'all'").set_index("contrast")
    low = stats.calibrated_margin(made(seeds), "rmse", reseeded=["other"], draws=300).low
    assert rows.loc["sink_1 - baseline", "margin"] == low and 0.6 < low < 0.8
    assert rows.loc["sink_1 - baseline", ["margin_from", "verdict"]].tolist() == ["seed", "equivalent"]
    assert rows.loc["other - baseline", "margin_from"] == "own"
    assert tables(seeds)["boundary"].loc[0, "margin"] == low


def test_an_arm_that_changes_more_than_the_seed_is_no_noise() -> None:
    arms = {"a": Arm(seed_shift=1), "b": Arm(seed_shift=1, guidance=2.0), "c": Arm(SINK)}
    assert _tables.seed_arms(study(arms=arms)) == ["a"]


def test_a_margin_from_seeds_needs_seeds() -> None:
    with pytest.raises(UsageError, match=r"margin of 'rmse'.*seeds=\[0\] gives one image per prompt"):
        study(margins={"rmse": "seed"})
    assert study(margins={"rmse": "seed"}, seeds=(0, 1)).margins == {"rmse": "seed"}


def test_the_same_edit_under_another_setting_is_compared_with_itself() -> None:
    """sink at two guidance scales, each against its own unedited arm."""
    arms = {"weak": Arm(guidance=2.0), "sink_weak": Arm(SINK, guidance=2.0, against="weak")}
    of = study(arms={"sink_1": SINK, "random_1": SINK.control("count"), **arms})
    assert double_contrasts(of) == [DoubleContrast("sink_weak", "weak", "sink_1", "baseline")]
    found = tables(of)["double_effects"]
    row = found[found["task"] == "all"].iloc[0]
    scores = made(of).pivot_table(index="prompt_id", columns=["metric", "arm"], values="value")["ssim"]
    d = (scores["sink_weak"] - scores["weak"]) - (scores["sink_1"] - scores["baseline"])
    assert row["effect"] == pytest.approx(d.mean()) and row["interval"] == "combined"
    assert tables(study())["double_effects"].empty
    assert double_contrasts(study()) == []


def test_psnr_is_a_distance_and_gives_no_effect() -> None:
    found = tables(study(metrics=("psnr", "rmse")))
    for name, table in found.items():
        assert "psnr" not in set(table["metric"]), name
    assert set(found["effects"]["metric"]) == {"rmse"}
    alone = tables(study(metrics=("psnr",), margins={}))
    assert all(table.empty for table in alone.values())
    with pytest.raises(UsageError, match="'psnr' can have no margin"):
        study(metrics=("psnr",), margins={"psnr": 1.0})
