"""Tables of ratios, boundaries, margins from seeds, four-arm differences and left-out tasks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from sinkscope import stats
from sinkscope.errors import NonFiniteError, UsageError
from sinkscope.stats import Contrast, DoubleContrast
from sinkscope.stats._boundary import BOUNDARY_COLUMNS
from sinkscope.stats._double import DOUBLE_COLUMNS
from sinkscope.stats._leave_out import LEAVE_OUT_COLUMNS
from sinkscope.stats._power_table import POWER_COLUMNS
from sinkscope.stats._ratio_table import RATIO_COLUMNS

DRAWS = 400
BASE, CONTROL = Contrast("sink", "baseline"), Contrast("sink", "random", "edit-control")


def long(values: dict[str, np.ndarray], *, metric: str = "m", tasks: int = 3) -> pd.DataFrame:
    """A long table from arm -> values `[prompt, seed]`."""
    rows = [
        {
            "unit": f"p{p:03d}-s{s}",
            "prompt_id": f"p{p:03d}",
            "task": f"task{p % tasks}",
            "arm": arm,
            "metric": metric,
            "value": float(value),
            "status": "ok",
        }
        for arm, table in values.items()
        for (p, s), value in np.ndenumerate(np.asarray(table))
    ]
    return pd.DataFrame(rows)


def noise(n: int = 60, seeds: int = 1, scale: float = 1.0, key: int = 0) -> np.ndarray:
    return np.random.default_rng(key).normal(scale=scale, size=(n, seeds))


def lose(table: pd.DataFrame, units: int, arm: str) -> pd.DataFrame:
    gone = (table["arm"] == arm) & table["unit"].isin(sorted(set(table["unit"]))[:units])
    return table.assign(value=table["value"].mask(gone), status=table["status"].mask(gone, "failed"))


# ---- columns of the table of effects


def test_effects_gain_columns_and_keep_the_old_ones():
    base = noise()
    table = long({"baseline": base, "sink": base - 0.4 + noise(key=1) / 5, "random": base + noise(key=2) / 5})
    found = stats.effects(table, contrasts=[BASE, CONTROL], draws=DRAWS, margins={"m": 0.2})
    row = found.set_index(["contrast", "task"]).loc[("sink - baseline", "all")]
    d = (table.query("arm=='sink'")["value"].to_numpy() - base[:, 0]).reshape(1, -1)
    whole = found[found["task"] == "all"]
    assert row["p_signflip"] == 1 / (DRAWS + 1) and row["p_t"] == pytest.approx(float(stats.paired_t(d)[0]))
    assert whole["p_bh"].tolist() == stats.benjamini_hochberg(whole["p_t"]).tolist()
    assert (whole["p_bh"] <= whole["p_holm"]).all()
    assert (row["margin_from"], row["interval_verdict"]) == ("declared", "beyond")
    without = stats.effects(table, contrasts=[BASE], draws=DRAWS).iloc[0]
    assert (without["margin_from"], without["interval_verdict"]) == ("", "")


def test_effects_with_another_interval():
    table = long({"baseline": noise(), "sink": noise() + noise(key=1) ** 2})
    found = stats.effects(table, contrasts=[BASE], draws=DRAWS, interval="t", by_task=False)
    d = table.query("arm=='sink'")["value"].to_numpy() - noise()[:, 0]
    expected = scipy_stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert len(found) == 1
    assert found.loc[0, ["ci_low", "ci_high"]].tolist() == pytest.approx([expected.low, expected.high])


def flipped(n: int, flips: int) -> dict[str, np.ndarray]:
    """0/1 scores of an arm in which the first `flips` prompts change, half of them each way."""
    base = np.array([[0.0], [1.0]] * (n // 2))
    return {"baseline": base, "sink": np.where(np.arange(n)[:, None] < flips, 1 - base, base)}


def test_a_0_1_score_gets_the_interval_for_paired_proportions():
    """One flip each way in 40: TOST and BCa lie inside 0.08, paired proportions do not."""
    table = long(flipped(40, 2))
    tight, wide = (
        stats.effects(table, contrasts=[BASE], draws=DRAWS, margins={"m": margin}).iloc[0]
        for margin in (0.08, 0.15)
    )
    d = np.r_[1.0, -1.0, np.zeros(38)]
    assert tight[["ci_low", "ci_high"]].tolist() == pytest.approx([*map(float, stats.paired_proportions(d))])
    assert tight[["ci90_low", "ci90_high"]].tolist() == pytest.approx(
        [*map(float, stats.paired_proportions(d, level=0.9))]
    )
    assert tight["p_tost"] < 0.05 and tight["interval"] == "proportions"
    assert [row["verdict"] for row in (tight, wide)] == ["inconclusive", "equivalent"]
    assert tight["note"].startswith("not equivalent: TOST alone would accept") and wide["note"] == ""
    forced = stats.effects(table, contrasts=[BASE], draws=DRAWS, margins={"m": 0.08}, interval="bca").iloc[0]
    assert (forced["interval"], forced["verdict"]) == ("bca", "equivalent")


@pytest.mark.parametrize(("n", "word"), [(32, "inconclusive"), (40, "equivalent")])
def test_equal_0_1_scores_are_equivalent_only_where_so_many_prompts_show_it(n, word):
    """No flip among n prompts leaves differences up to 3.84 / (n + 3.84) open."""
    table = long(flipped(n, 0))
    row = stats.effects(table, contrasts=[BASE], draws=DRAWS, margins={"m": 0.1}).iloc[0]
    limit = 1.959964**2 / (n + 1.959964**2)
    assert row["ci_high"] == -row["ci_low"] == pytest.approx(limit, rel=1e-6) and row["p_t"] == 1
    assert row["verdict"] == word
    assert f"{n} prompts do not exclude differences up to {limit:.2g}" in row["note"]
    same = [("sink", "baseline")]
    known = stats.effects(table, contrasts=[BASE], draws=DRAWS, identical=same).iloc[0]
    assert known["verdict"] == "equivalent" and "the images are the same" in known["note"]


def test_seeds_of_a_0_1_score_are_averaged_in_pairs_of_prompts():
    base = np.tile([[0.0, 1.0]], (30, 1))
    other = base.copy()
    other[:6, 1] = 0
    other[3, 0] = 1
    table = long({"baseline": base, "sink": other})
    row = stats.effects(table, contrasts=[BASE], draws=DRAWS).iloc[0]
    d = (other - base).mean(axis=1)
    assert row[["ci_low", "ci_high"]].tolist() == pytest.approx(
        [*map(float, stats.paired_proportions(d, seeds=2))]
    )
    lost = table[~((table["unit"] == "p000-s1") & (table["arm"] == "sink"))]
    row = stats.effects(lost, contrasts=[BASE], draws=DRAWS).iloc[0]
    seeds = np.r_[1.0, np.full(29, 2.0)]
    d[0] = 0
    assert row[["ci_low", "ci_high"]].tolist() == pytest.approx(
        [*map(float, stats.paired_proportions(d, seeds=seeds))]
    )


def test_whether_a_score_is_0_or_1_is_said_by_all_its_arms():
    """A distance is 0 for arms with the same image; that does not make it a score of 0 and 1."""
    zero = np.zeros((30, 1))
    arms = {"baseline": zero, "null": zero, "sink": noise(30) ** 2}
    null = Contrast("null", "baseline")
    row = stats.effects(long(arms), contrasts=[null], draws=DRAWS).iloc[0]
    assert (row["verdict"], row["interval"], row["ci_high"]) == ("equivalent", "combined", 0)
    del arms["sink"]
    row = stats.effects(long(arms), contrasts=[null], draws=DRAWS).iloc[0]
    assert (row["verdict"], row["interval"]) == ("inconclusive", "proportions")


@pytest.mark.parametrize("side", [1, -1])
def test_skewed_differences_are_not_taken_for_equivalence_by_tost_alone(side):
    """The true mean lies on the margin and TOST accepts; the interval does not."""
    draws = np.random.default_rng(3).exponential(size=(200, 30)) - 0.4
    tost = stats.tost(side * draws, 0.6).p < 0.05
    assert tost.sum() >= 8
    base, blocked = np.zeros((30, 1)), 0
    for d in side * draws[tost][:8]:
        table = long({"baseline": base, "sink": d[:, None]})
        options = {"contrasts": [BASE], "draws": DRAWS, "by_task": False}
        row = stats.effects(table, margins={"m": 0.6}, **options).iloc[0]
        if row["verdict"] != "equivalent":
            assert "TOST alone would accept" in row["note"] and row["p_tost"] < 0.05
            blocked += 1
        wide = stats.effects(table, margins={"m": 3.0}, **options).iloc[0]
        assert wide["verdict"] == "equivalent" and "TOST" not in wide["note"]
    assert blocked >= 4


@pytest.mark.parametrize(("largest", "word"), [(0.0005, "equivalent"), (0.05, "inconclusive")])
def test_where_few_prompts_differ_each_difference_must_lie_inside(largest, word):
    """The bootstrap-t has no end there: nearly equal is no worse than a little different everywhere."""
    d = np.zeros((20, 1))
    d[3], d[7] = largest, largest / 2
    arms = {"baseline": np.zeros((20, 1)), "sink": d}
    row = stats.effects(long(arms), contrasts=[BASE], draws=DRAWS, margins={"m": 0.04}, by_task=False).iloc[0]
    assert row["verdict"] == word and row["ci_high"] == largest and row["ci_low"] <= 0


@pytest.mark.parametrize(
    ("ci", "ci90", "margin", "word"),
    [
        ((-0.1, 0.2), (-0.08, 0.15), 0.2, "within"),
        ((0.05, 0.2), (0.06, 0.19), 0.2, "within"),
        ((0.25, 0.6), (0.3, 0.5), 0.2, "beyond"),
        ((-0.6, -0.25), (-0.5, -0.3), 0.2, "beyond"),
        ((0.1, 0.6), (0.15, 0.5), 0.2, "nonzero"),
        ((-0.1, 0.6), (-0.05, 0.5), 0.2, "unresolved"),
        ((-0.2, 0.2), (-0.2, 0.2), 0.2, "unresolved"),
        ((-0.1, 0.1), (-0.1, 0.1), math.nan, None),
        ((math.nan, math.nan), (math.nan, math.nan), 0.2, None),
    ],
)
def test_interval_verdict(ci, ci90, margin, word):
    assert stats.interval_verdict(ci=ci, ci90=ci90, margin=margin) == word


# ---- margins from seeds


def seeded(n: int = 80, scale: float = 0.3) -> dict[str, np.ndarray]:
    base = noise(n) + noise(n, 2, scale, key=1)
    return {"baseline": base, "sink": base + 0.01 * noise(n, 2, key=2), "random": base + 5}


def test_margin_is_the_mean_absolute_difference_between_seeds():
    arms = seeded()
    found = stats.calibrated_margin(long(arms), "m", conservative=False, draws=DRAWS)
    gaps = np.abs(arms["baseline"][:, 0] - arms["baseline"][:, 1])
    assert found.noise == found.value == pytest.approx(gaps.mean())
    assert found.noise == pytest.approx(0.3 * 2 / np.sqrt(np.pi), rel=0.25)
    assert (found.n_prompts, found.n_pairs) == (80, 80)
    careful = stats.calibrated_margin(long(arms), "m", draws=DRAWS, factor=0.5)
    assert careful.value == pytest.approx(0.5 * careful.low) and careful.low < careful.noise < careful.high
    median = stats.calibrated_margin(long(arms), "m", quantile=0.5, conservative=False, draws=DRAWS)
    assert median.value == pytest.approx(np.median(gaps)) and median.low < median.value < median.high


def test_margin_never_reads_a_treated_arm():
    """Nothing that happens in an edit or a control moves the margin."""
    calm, wild = seeded(), seeded()
    wild["sink"], wild["random"] = wild["sink"] * 100, noise(80, 2, 50.0, key=9)
    assert stats.calibrated_margin(long(calm), "m", draws=DRAWS) == stats.calibrated_margin(
        long(wild), "m", draws=DRAWS
    )


def test_margin_seed_in_effects():
    table = long(seeded())
    margin = stats.calibrated_margin(table, "m", draws=DRAWS).value
    found = stats.effects(table, contrasts=[BASE], draws=DRAWS, margins={"m": "seed"})
    assert (found["margin"] == margin).all() and (found["margin_from"] == "seed").all()
    assert found.loc[0, "verdict"] == "equivalent"
    with pytest.raises(UsageError, match="'sed' for 'm', expected a positive number.*\"seed\""):
        stats.effects(table, contrasts=[BASE], draws=DRAWS, margins={"m": "sed"})  # type: ignore[dict-item]


def test_margin_of_a_distance_needs_an_arm_with_other_seeds():
    distance = np.abs(noise(30, 1, 0.1, key=3)) + 0.6
    arms = {"baseline": np.zeros((30, 1)), "sink": distance / 3, "other seed": distance}
    table = long(arms)
    with pytest.raises(UsageError, match="0 prompts have two images without edits.*at least 10"):
        stats.calibrated_margin(table, "m", draws=DRAWS)
    found = stats.calibrated_margin(table, "m", reseeded=["other seed"], draws=DRAWS)
    assert found.noise == pytest.approx(distance.mean())
    both = [BASE, Contrast("other seed", "baseline")]
    rows = stats.effects(
        table, contrasts=both, margins={"m": "seed"}, seed_arms=["other seed"], draws=DRAWS, by_task=False
    )
    assert rows["margin_from"].tolist() == ["seed", "own"] and np.isnan(rows["margin"][1])
    assert rows["verdict"].tolist() == ["equivalent", "different"]
    assert "measured on this arm" in rows["note"][1]


def test_margin_refuses_what_it_cannot_measure():
    flips = np.random.default_rng(0).integers(0, 2, size=(40, 2))
    with pytest.raises(UsageError, match=r"two values only \(0, 1\).*share of prompts that flip"):
        stats.calibrated_margin(long({"baseline": flips}), "m", draws=DRAWS)
    with pytest.raises(UsageError, match="9 prompts"):
        stats.calibrated_margin(long({"baseline": noise(9, 2)}), "m", draws=DRAWS)
    same = np.repeat(noise(40), 2, axis=1)
    with pytest.raises(UsageError, match="noise between seeds is 0"):
        stats.calibrated_margin(long({"baseline": same}), "m", draws=DRAWS)
    with pytest.raises(UsageError, match="factor=0"):
        stats.calibrated_margin(long(seeded()), "m", factor=0)
    with pytest.raises(UsageError, match="Unknown arm"):
        stats.calibrated_margin(long(seeded()), "m", reseeded=["nobody"])


def test_margin_from_seeds_keeps_the_error_rate():
    """True effect exactly at the true noise: accepted in at most 5.5 % of 400 studies of 40 prompts."""
    truth, accepted = 2 / np.sqrt(np.pi), 0
    for index in range(400):
        rng = stats.keyed_generator(1, index)
        base = rng.normal(size=(40, 2))
        gaps = np.abs(base[:, 0] - base[:, 1])
        margin = float(stats.mean_interval(gaps, levels=(0.9,), draws=200, rng=rng)[0].low)
        d = (truth + rng.normal(size=(40, 2)) - base).mean(axis=1)
        accepted += bool(stats.tost(d, margin).p < 0.05)
    assert accepted <= 22


# ---- ratios


def test_ratios_of_distances():
    rng = np.random.default_rng(4)
    random = rng.gamma(3, size=(60, 1))
    arms = {"baseline": np.zeros((60, 1)), "sink": 6 * random + rng.normal(size=(60, 1)), "random": random}
    found = stats.ratios(long(arms), contrasts=[CONTROL], metrics=["m"], draws=DRAWS)
    assert tuple(found.columns) == RATIO_COLUMNS
    assert found["task"].tolist() == ["all", "task0", "task1", "task2"]
    row = found.iloc[0]
    assert row["ratio"] == pytest.approx(arms["sink"].mean() / random.mean())
    assert row["ci_low"] < 6 < row["ci_high"] and row["fieller_low"] < 6 < row["fieller_high"]
    similar = {arm: 1 - values / 20 for arm, values in arms.items()}  # as SSIM: the zero is at 1
    turned = stats.ratios(long(similar), contrasts=[CONTROL], metrics=["m"], draws=DRAWS).iloc[0]
    assert turned["zero"] == 1 and turned["mean_arm"] < 0
    names = ["ratio", "ci_low", "ci_high", "fieller_low"]
    assert turned[names].tolist() == pytest.approx(row[names].tolist())


def test_ratios_refuse_scores_without_a_zero():
    base = noise()
    table = long({"baseline": base, "sink": base + 1, "random": base})
    with pytest.raises(UsageError, match="'m' has no natural zero.*zeros="):
        stats.ratios(table, contrasts=[CONTROL], metrics=["m"])
    shifted = long({"baseline": base, "sink": base * 0 + 4, "random": base * 0 + 2})
    found = stats.ratios(shifted, contrasts=[CONTROL], metrics=["m"], zeros={"m": 1.0}, draws=DRAWS)
    assert found.loc[0, ["ratio", "ci_low", "ci_high"]].tolist() == [3, 3, 3]


def test_ratio_notes():
    arms = {"baseline": np.zeros((30, 1)), "sink": noise(30) ** 2 + 1, "random": np.zeros((30, 1))}
    found = stats.ratios(long(arms), contrasts=[CONTROL], metrics=["m"], draws=DRAWS)
    assert (found["note"] == "the denominator is zero").sum() >= 1 and found["ratio"].isna().all()
    with pytest.raises(NonFiniteError, match="Ratio sink - random"):
        stats.ratios(lose(long(arms), 5, "sink"), contrasts=[CONTROL], metrics=["m"], draws=DRAWS)


# ---- four arms


def test_difference_of_differences_on_four_arms():
    base, other = noise(key=0), noise(key=1) + 3
    arms = {
        "baseline": base,
        "weak": other,
        "sink": base - 0.5 + noise(key=2) / 10,
        "weak sink": other - 0.2 + noise(key=3) / 10,
    }
    quad = DoubleContrast("sink", "baseline", "weak sink", "weak")
    found = stats.double_effects(long(arms), contrasts=[quad], margins={"m": 1.0}, draws=DRAWS)
    assert tuple(found.columns) == DOUBLE_COLUMNS
    row = found.iloc[0]
    d = ((arms["sink"] - base) - (arms["weak sink"] - other))[:, 0]
    four = (arms["sink"].T, base.T, arms["weak sink"].T, other.T)
    assert stats.difference_of_differences(*four)[0] == pytest.approx(d)
    assert row["effect"] == pytest.approx(d.mean())
    assert row["effect"] == pytest.approx(row["effect_edit"] - row["effect_control"])
    assert row["p_t"] == pytest.approx(scipy_stats.ttest_1samp(d, 0).pvalue)
    assert row["contrast"] == "(sink - baseline) - (weak sink - weak)" and row["verdict"] == "equivalent"
    plain = stats.double_effects(long(arms), contrasts=[quad], draws=DRAWS).iloc[0]
    assert plain["verdict"] == "different" and np.isnan(plain["p_tost"])


def test_shared_baseline_cancels():
    base = noise()
    arms = {"baseline": base, "sink": base + noise(key=1), "random": base + noise(key=2)}
    quad = DoubleContrast("sink", "baseline", "random", "baseline")
    four = stats.double_effects(long(arms), contrasts=[quad], draws=DRAWS).iloc[0]
    two = stats.effects(long(arms), contrasts=[CONTROL], draws=DRAWS).iloc[0]
    for name in ("effect", "sd", "ci_low", "ci_high", "p_t", "p_wilcoxon", "p_signflip"):
        assert four[name] == pytest.approx(two[name], abs=1e-9)


def test_four_arms_are_checked():
    with pytest.raises(UsageError, match="compares an arm with itself"):
        DoubleContrast("sink", "sink", "random", "baseline")
    with pytest.raises(UsageError, match="same prompts in all four"):
        stats.difference_of_differences([1.0], [1.0], [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(UsageError, match="Got no contrasts"):
        stats.double_effects(long(seeded()), contrasts=[])


# ---- boundary


def ladder(shift: list[float], n: int = 60, spread: float = 0.1) -> pd.DataFrame:
    base = noise(n)
    arms = {"baseline": base}
    for index, mean in enumerate(shift):
        arms[f"sink{2**index}"] = base - mean + spread * noise(n, key=index + 1)
        arms[f"random{2**index}"] = base + spread * noise(n, key=index + 50)
    return long(arms)


DOSES = {f"sink{2**i}": 2.0**i for i in range(5)}
RANDOM = {f"random{2**i}": 2.0**i for i in range(5)}


def test_boundary_is_found_where_it_was_put():
    found = stats.dose_boundary(
        ladder([0, 0, 0.02, 0.5, 0.7]), DOSES, margins={"m": 0.2}, control=RANDOM, draws=DRAWS
    )
    assert tuple(found.columns) == BOUNDARY_COLUMNS
    row = found[found["task"] == "all"].set_index("series")
    assert row.loc["edit", ["within", "threshold", "boundary"]].tolist() == [4, 8, 8]
    assert row.loc["edit", ["threshold_low", "threshold_high"]].tolist() == [8, 8]
    assert row.loc["edit", ["boundary_low", "boundary_high"]].tolist() == [8, 8]
    assert (row.loc["edit", "direction"], row.loc["edit", "note"]) == ("lower", "")
    control = row.loc["control"]
    assert np.isnan(control["boundary"]) and control["threshold"] == np.inf and control["within"] == 16
    assert control["boundary_high"] == np.inf and control["direction"] == "none"
    assert control["note"].startswith("not reached: at the largest dose 16 the effect is")


def test_boundary_intervals_open_with_noise():
    table = ladder([0, 0.1, 0.2, 0.3, 0.4], spread=0.8)
    row = stats.dose_boundary(table, DOSES, margins={"m": 0.2}, draws=DRAWS).iloc[0]
    assert row["threshold_low"] < row["threshold_high"]
    assert row["threshold_low"] <= row["threshold"] <= row["threshold_high"]
    assert not row["boundary"] < row["threshold"]


def test_boundary_says_when_it_is_not_steady():
    found = stats.dose_boundary(ladder([0, 0.5, 0, 0.5, 0.5]), DOSES, margins={"m": 0.2}, draws=DRAWS).iloc[0]
    assert found["boundary"] == 2 and found["note"] == "not steady: dose 4 is not beyond the margin"


def test_boundary_intervals_are_those_of_the_effects():
    """`within` and `boundary` follow from the intervals in the table of effects."""
    table = ladder([0.05, 0.12, 0.2, 0.26, 0.5], spread=0.4)
    rows = stats.effects(
        table,
        contrasts=[Contrast(arm, "baseline") for arm in DOSES],
        margins={"m": 0.2},
        draws=DRAWS,
        by_task=False,
    )
    row = stats.dose_boundary(table, DOSES, margins={"m": 0.2}, draws=DRAWS).iloc[0]
    words = zip(DOSES.values(), rows["interval_verdict"], strict=True)
    beyond = [dose for dose, word in words if word == "beyond"]
    assert row["boundary"] == min(beyond)


def test_boundary_is_checked():
    with pytest.raises(UsageError, match="expected margins such as"):
        stats.dose_boundary(ladder([0, 1]), {"sink1": 1}, margins={})
    with pytest.raises(UsageError, match="ascending, each once"):
        stats.dose_boundary(ladder([0, 1]), {"sink1": 1, "sink2": 1}, margins={"m": 0.2}, draws=DRAWS)
    with pytest.raises(NonFiniteError, match="Boundary, metric m"):
        stats.dose_boundary(
            lose(ladder([0, 1]), 9, "sink2"), {"sink1": 1, "sink2": 2}, margins={"m": 0.2}, draws=DRAWS
        )
    with pytest.raises(UsageError, match=r"\[dose, prompt\]"):
        stats.find_boundary(np.zeros((2, 5)), [1.0], 0.1, rng=stats.keyed_generator(0))


# ---- leave one task out


def test_one_task_that_carries_the_effect_is_found():
    base, push = noise(90, scale=0.2), np.zeros((90, 1))
    push[0::3] = 1.0  # task0 only
    table = long({"baseline": base, "sink": base + push + 0.05 * noise(90, key=1)})
    found = stats.leave_one_task_out(table, contrasts=[BASE], draws=DRAWS)
    assert tuple(found.columns) == LEAVE_OUT_COLUMNS
    row = found.set_index("left_out")
    assert row["changes"].tolist() == [True, False, False]
    assert row["verdict"].tolist() == ["inconclusive", "different", "different"]
    assert (row["verdict_all"] == "different").all() and (row["n_prompts"] == 60).all()
    part = stats.effects(table[table["task"] != "task1"], contrasts=[BASE], draws=DRAWS).iloc[0]
    assert row.loc["task1", ["effect", "ci_low", "p_holm"]].tolist() == pytest.approx(
        part[["effect", "ci_low", "p_holm"]].tolist()
    )


def test_leaving_out_needs_two_tasks_and_keeps_the_margin():
    with pytest.raises(UsageError, match="Got 1 task"):
        stats.leave_one_task_out(long(seeded(), tasks=1), contrasts=[BASE])
    found = stats.leave_one_task_out(long(seeded()), contrasts=[BASE], margins={"m": "seed"}, draws=DRAWS)
    assert (found["verdict"] == "equivalent").all() and not found["changes"].any()
    arms = seeded() | {"other": seeded()["baseline"] + noise(80, 2, 0.3, key=7)}
    own = stats.leave_one_task_out(
        long(arms),
        contrasts=[Contrast("other", "baseline")],
        margins={"m": "seed"},
        seed_arms=["other"],
        draws=DRAWS,
    )
    assert own["note"].str.contains("measured on this arm").all()


# ---- power


def test_power_table():
    base = noise(40)
    table = long({"baseline": base, "sink": base + 0.1 + noise(40, key=1) / 2, "random": base})
    null = Contrast("random", "baseline")
    effects = stats.effects(table, contrasts=[BASE, null], draws=DRAWS, margins={"m": 0.3})
    found = stats.power_table(effects)
    assert tuple(found.columns) == POWER_COLUMNS and len(found) == 2
    row, sd = found.iloc[0], effects.loc[0, "sd"]
    assert row["detectable_effect"] == pytest.approx(stats.detectable_effect(40, sd))
    assert row["detectable_effect_holm"] == pytest.approx(stats.detectable_effect(40, sd, alpha=0.05 / 2))
    # The whole 95 % interval has to lie inside, so each side is tested at 2.5 %.
    assert row["asked"] == "margin 0.3" and row["power"] == stats.power_equivalence(40, 0.3, sd, alpha=0.025)
    needed = stats.prompts_for_equivalence(0.3, sd, alpha=0.025).n
    assert row["prompts_needed"] == needed < row["prompts_needed_safe"]
    assert found.loc[1, "note"] == "no standard deviation to go by: the differences do not vary"
    asked = stats.power_table(effects, metric="m", effect=-0.2, power=0.9).iloc[0]
    assert asked["asked"] == "effect -0.2" and asked["power"] == stats.power_difference(40, 0.2, sd)
    assert asked["prompts_needed"] == stats.prompts_for_difference(0.2, sd, power=0.9).n


def test_power_table_is_checked():
    effects = stats.effects(long(seeded()), contrasts=[BASE], draws=DRAWS)
    with pytest.raises(UsageError, match="Unknown metric 'n'"):
        stats.power_table(effects, metric="n")
    with pytest.raises(UsageError, match="expected one: an effect"):
        stats.power_table(effects, effect=1, margin=1)
    for bad in ({"effect": 0.0}, {"margin": -1.0}, {"power": 1.0}):
        with pytest.raises(UsageError, match="Got"):
            stats.power_table(effects, **bad)
    with pytest.raises(UsageError, match="declares no contrast"):
        stats.power_table(pd.DataFrame({"task": []}))
