"""The tables of effects and slopes on small studies whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from sinkscope.errors import NonFiniteError, UsageError
from sinkscope.stats import Contrast, dose_response, effects
from sinkscope.stats._effects import EFFECT_COLUMNS

BASE, CONTROL = Contrast("sink", "baseline"), Contrast("sink", "random", "edit-control")
DRAWS = 500


def study(prompts: int = 48, seeds: int = 2, tasks: int = 3) -> pd.DataFrame:
    """Scores of five arms: `null` equals the baseline, `sink` loses 0.3, `random` loses 0.1."""
    rng = np.random.default_rng(0)
    rows = []
    for p in range(prompts):
        for s in range(seeds):
            base, noise = rng.normal(), rng.normal(scale=0.05, size=3)
            values = {
                "baseline": base,
                "null": base,
                "sink": base - 0.3,
                "random": base - 0.1,
                "sink5": base - 0.6,
            }
            jitter = {"sink": noise[0], "random": noise[1], "sink5": noise[2]}
            for arm, value in values.items():
                rows.append(
                    {
                        "unit": f"p{p:02d}-s{s}",
                        "prompt_id": f"p{p:02d}",
                        "prompt": f"prompt {p}",
                        "task": f"task{p % tasks}",
                        "seed": s,
                        "arm": arm,
                        "metric": "m",
                        "value": value + jitter.get(arm, 0.0),
                        "status": "ok",
                    }
                )
    return pd.DataFrame(rows)


def lose(table: pd.DataFrame, units: list[str], arm: str = "sink", status: str = "truncated") -> pd.DataFrame:
    gone = table["unit"].isin(units) & (table["arm"] == arm)
    return table.assign(value=table["value"].mask(gone), status=table["status"].mask(gone, status))


def overall(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["task"] == "all"].set_index("contrast")


def test_columns_rows_and_numbers():
    table = study()
    found = effects(table, contrasts=[BASE, CONTROL], draws=DRAWS)
    assert tuple(found.columns) == EFFECT_COLUMNS
    assert len(found) == 2 * (1 + 3)
    row = overall(found).loc["sink - baseline"]
    wide = table.pivot_table(index="prompt_id", columns="arm", values="value")
    d = wide["sink"] - wide["baseline"]
    assert row["effect"] == pytest.approx(d.mean()) and row["sd"] == pytest.approx(d.std())
    assert row["p_t"] == pytest.approx(scipy_stats.ttest_rel(wide["sink"], wide["baseline"]).pvalue)
    assert row["mean_arm"] == pytest.approx(wide["sink"].mean())
    assert (row["n_prompts"], row["n_units"], row["missing_units"]) == (48, 96, 0)
    assert row["ci_low"] < row["ci90_low"] < row["effect"] < row["ci90_high"] < row["ci_high"] < 0
    assert (row["verdict"], row["direction"], row["note"]) == ("different", "lower", "")


def test_difference_of_differences_is_edit_minus_control():
    found = overall(effects(study(), contrasts=[BASE, Contrast("random", "baseline"), CONTROL], draws=DRAWS))
    expected = found.loc["sink - baseline", "effect"] - found.loc["random - baseline", "effect"]
    assert found.loc["sink - random", "effect"] == pytest.approx(expected)
    assert found.loc["sink - random", "kind"] == "edit-control"


def test_seeds_are_averaged_not_counted():
    table = study(seeds=1)
    again = table.assign(unit=table["unit"] + "again", seed=1)
    once, twice = (effects(t, contrasts=[BASE], draws=DRAWS) for t in (table, pd.concat([table, again])))
    pd.testing.assert_frame_equal(once.drop(columns="n_units"), twice.drop(columns="n_units"))
    assert (twice["n_units"] == 2 * once["n_units"]).all()


def test_row_order_and_other_rows_change_nothing():
    table = study()
    found = effects(table, contrasts=[BASE], draws=DRAWS)
    mixed = pd.concat([table, table.assign(metric="other")]).sample(frac=1, random_state=0)
    again = effects(mixed, contrasts=[CONTROL, BASE], metrics=["other", "m"], draws=DRAWS)
    again = again[(again["metric"] == "m") & (again["contrast"] == BASE.name)].reset_index(drop=True)
    columns = [c for c in EFFECT_COLUMNS if c not in ("p_holm", "family_size")]
    pd.testing.assert_frame_equal(found[columns], again[columns])


def test_identical_arms_are_equivalent_with_a_note():
    row = overall(effects(study(), contrasts=[Contrast("null", "baseline"), BASE], draws=DRAWS)).loc[
        "null - baseline"
    ]
    assert (row["effect"], row["ci_low"], row["ci_high"], row["p_t"], row["dz"]) == (0, 0, 0, 1, 0)
    assert row["verdict"] == "equivalent" and row["direction"] == "none"
    assert "every pair is identical" in row["note"] and row["family_size"] == 2
    assert row["note"].endswith("; up to 6% of all prompts may yet change")
    known = effects(study(), contrasts=[Contrast("null", "baseline")], identical=[("null", "baseline")])
    assert known["note"].iloc[0].endswith("equivalent for any margin")


def test_equivalence_needs_a_margin_and_may_be_non_zero():
    without = overall(effects(study(), contrasts=[BASE], draws=DRAWS)).iloc[0]
    within = overall(effects(study(), contrasts=[BASE], draws=DRAWS, margins={"m": 0.5})).iloc[0]
    tight = overall(effects(study(), contrasts=[BASE], draws=DRAWS, margins={"m": 0.05})).iloc[0]
    assert [r["verdict"] for r in (without, within, tight)] == ["different", "equivalent", "different"]
    assert np.isnan(without["p_tost"]) and within["p_tost"] < 0.001 and tight["p_tost"] > 0.9
    assert within["note"] == "non-zero, and smaller than the margin"


def test_families():
    table = pd.concat([study(), study().assign(metric="other")])
    sizes = {}
    for family in ("all", "metric", "table"):
        found = effects(table, contrasts=[BASE, CONTROL], draws=DRAWS, family=family)
        sizes[family] = found.groupby(found["task"] == "all")["family_size"].unique().explode().to_dict()
    assert sizes == {
        "all": {True: 4, False: 12},
        "metric": {True: 2, False: 6},
        "table": {True: 16, False: 16},
    }


def test_missing_pairs_are_counted_then_refused():
    table = study()
    one = effects(lose(table, ["p00-s0"]), contrasts=[BASE, Contrast("random", "baseline")], draws=DRAWS)
    row = overall(one).loc["sink - baseline"]
    assert (row["n_units"], row["n_prompts"], row["missing_units"]) == (95, 48, 1)
    assert row["note"] == "1 of 96 pairs missing (1 truncated)"
    assert overall(one).loc["random - baseline", "note"] == ""
    task = one[(one["task"] == "task0") & (one["arm"] == "sink")].iloc[0]
    assert task["verdict"] == "inconclusive" and "too few pairs" in task["note"]
    many = lose(table, [f"p{i:02d}-s0" for i in range(5)])
    with pytest.raises(NonFiniteError, match=r"91 of 96 units .*94.8%.*98%.*5 truncated.*least_pairs="):
        effects(many, contrasts=[BASE], draws=DRAWS)
    allowed = overall(effects(many, contrasts=[BASE], draws=DRAWS, least_pairs=0.9)).iloc[0]
    assert allowed["n_units"] == 91 and "5 of 96 pairs missing" in allowed["note"]


def test_absent_rows_are_missing_too():
    table = study()
    gone = table[~((table["unit"] == "p00-s0") & (table["arm"] == "sink"))]
    assert "1 no row" in overall(effects(gone, contrasts=[BASE], draws=DRAWS)).iloc[0]["note"]


def test_a_metric_never_scored_for_the_reference_says_so():
    table = pd.concat([study(), study().assign(metric="distance").query("arm != 'baseline'")])
    found = effects(table, contrasts=[BASE, CONTROL], draws=DRAWS)
    row = found[(found["metric"] == "distance") & (found["task"] == "all")].set_index("contrast")
    assert row.loc["sink - baseline", "verdict"] == "inconclusive"
    assert "arm baseline was never scored" in row.loc["sink - baseline", "note"]
    assert row.loc["sink - baseline", "family_size"] == 0 and np.isnan(row.loc["sink - baseline", "p_holm"])
    assert row.loc["sink - random", "verdict"] == "different"


def test_constant_differences_and_a_distance_to_itself():
    table = study()
    table["value"] = table["arm"].map({"baseline": 0.0, "sink": 0.25}).fillna(1.0)
    row = overall(effects(table, contrasts=[BASE], draws=DRAWS)).iloc[0]
    assert row["p_t"] == 2.0**-47 and row["ci_low"] == row["ci_high"] == 0.25
    assert "same number" in row["note"] and "a distance to itself?" in row["note"]


def test_one_prompt_is_no_sample():
    table = study(prompts=1, tasks=1)
    row = overall(effects(table, contrasts=[BASE], draws=DRAWS)).iloc[0]
    assert row["verdict"] == "inconclusive" and "1 prompts: nothing to test" in row["note"]
    assert np.isfinite(row["effect"]) and np.isnan(row["p_holm"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.drop(columns="task"), {}, "lack the columns task"),
        (lambda t: t.iloc[:0], {}, "empty"),
        (lambda t: pd.concat([t, t.iloc[:1]]), {}, "occur twice"),
        (lambda t: t.assign(task=np.arange(len(t)).astype(str)), {}, "two prompts or tasks"),
        (lambda t: t, {"contrasts": [Contrast("sinks", "baseline")]}, "Did you mean 'sink'"),
        (lambda t: t.assign(task="all"), {}, "Rename the task"),
        (lambda t: t, {"metrics": ["n"]}, "Unknown metric"),
        (lambda t: t, {"margins": {"n": 1.0}}, "margins"),
        (lambda t: t, {"margins": {"m": -1.0}}, "positive"),
        (lambda t: t, {"contrasts": []}, "one or more"),
        (lambda t: t, {"contrasts": [BASE, BASE]}, "each declared once"),
        (lambda t: t, {"family": "none"}, "Unknown family"),
        (lambda t: t, {"level": 95}, "level=95"),
    ],
)
def test_bad_input(change, options, message):
    with pytest.raises(UsageError, match=message):
        effects(change(study()), **({"contrasts": [BASE], "draws": DRAWS} | options))


def test_ok_means_a_number():
    with pytest.raises(NonFiniteError, match="marked ok"):
        effects(study().assign(value=np.nan), contrasts=[BASE])


def test_contrasts_are_checked():
    with pytest.raises(UsageError, match="with itself"):
        Contrast("sink", "sink")
    with pytest.raises(UsageError, match="contrast kind"):
        Contrast("sink", "random", "other")  # type: ignore[arg-type]


def test_dose_response():
    found = dose_response(study(), {"sink": 1, "sink5": 5}, control={"null": 1, "random": 5}, draws=DRAWS)
    rows = found[found["task"] == "all"].set_index("series")
    wide = study().pivot_table(index="prompt_id", columns="arm", values="value")
    slope = np.polyfit(np.log1p([0, 1, 5]), wide[["baseline", "sink", "sink5"]].to_numpy().T, 1)[0]
    assert rows.loc["edit", "slope"] == pytest.approx(slope.mean())
    assert rows.loc["edit", "p_t"] == pytest.approx(scipy_stats.ttest_1samp(slope, 0).pvalue)
    difference = rows.loc["edit", "slope"] - rows.loc["control", "slope"]
    assert rows.loc["edit-control", "slope"] == pytest.approx(difference)
    assert rows.loc["edit-control", "ci_high"] < 0 and rows.loc["edit", "doses"] == "0, 1, 5"
    ranks = scipy_stats.page_trend_test(wide[["sink5", "sink", "baseline"]].to_numpy()).pvalue
    assert rows.loc["edit", "p_page"] == pytest.approx(2 * ranks) and np.isnan(
        rows.loc["edit-control", "p_page"]
    )


def test_dose_response_refuses():
    with pytest.raises(UsageError, match="do not compare"):
        dose_response(study(), {"sink": 1, "sink5": 5}, control={"random": 1, "null": 7}, draws=DRAWS)
    with pytest.raises(UsageError, match="at least two different"):
        dose_response(study(), {"sink": 1}, baseline=None, draws=DRAWS)
    with pytest.raises(UsageError, match="Unknown arm"):
        dose_response(study(), {"sink": 1, "sink6": 5}, draws=DRAWS)
    with pytest.raises(NonFiniteError, match="Dose response"):
        dose_response(lose(study(), [f"p{i:02d}-s0" for i in range(9)]), {"sink": 1, "sink5": 5}, draws=DRAWS)


def test_dose_response_of_a_metric_without_a_baseline_says_so():
    table = pd.concat([study(), study().assign(metric="distance").query("arm != 'baseline'")])
    found = dose_response(table, {"sink": 1, "sink5": 5}, draws=DRAWS).set_index(["metric", "task"])
    assert "arm baseline was never scored" in found.loc[("distance", "all"), "note"]
    assert np.isnan(found.loc[("distance", "all"), "slope"]) and found.loc[("m", "all"), "p_holm"] < 0.05
    without = dose_response(table, {"sink": 1, "sink5": 5}, baseline=None, metrics=["distance"], draws=DRAWS)
    assert np.isfinite(without["slope"]).all()
