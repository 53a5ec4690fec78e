"""What is claimed follows from the verdicts, whatever they are."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sinkscope.report import _words as words
from sinkscope.report._arms import pairs, read_arms
from sinkscope.report._dynamics import by_place, frequent, kind_table, places, t_interval, top_rows
from sinkscope.report._format import count, estimate, number, p_value, percent, times
from sinkscope.report._sinks import sinks


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    base = {
        "task": "all",
        "kind": "edit-control",
        "ci_low": -0.1,
        "ci_high": 0.1,
        "n_prompts": 8,
        "level": 0.95,
        "margin": 0.05,
        "mean_arm": 0.5,
        "mean_reference": 0.5,
    }
    return pd.DataFrame([base | row for row in rows])


def contrast(metric: str, budget: int, effect: float, verdict: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "arm": f"sink_{budget}",
        "reference": f"random_{budget}",
        "effect": effect,
        "verdict": verdict,
    }


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [("rmse", 0.2, "different")] * 2,
            "Removing sinks changes the image more than removing as many random keys.",
        ),
        ([("rmse", -0.2, "different")] * 2, "changes the image less than removing as many random keys."),
        ([("rmse", 0.2, "different"), ("rmse", 0.2, "inconclusive")], "in 1 of 2 comparisons."),
        ([("ssim", -0.2, "different")] * 2, "changes the image more than"),
        ([("rmse", 0.2, "inconclusive")] * 2, "stays open."),
        ([("rmse", 0.2, "equivalent")] * 2, "as much as removing as many random keys, within the margins."),
        (
            [("rmse", 0.2, "different"), ("rmse", -0.2, "different")],
            "more than removing as many random keys in 1 and less in 1 of 2",
        ),
        ([("scene", -0.2, "different")] * 2, "Scene correctness is lower after removing sinks than after"),
        ([("scene", -0.2, "different"), ("scene", 0.2, "different")], "in both directions"),
        (
            [("scene", 0.0, "equivalent")] * 2,
            "equivalent after removing sinks and after removing as many random keys within ±0.050",
        ),
        ([("scene", -0.2, "inconclusive")] * 2, "For scene correctness the comparison is inconclusive."),
        (
            [("scene", -0.2, "inconclusive"), ("scene", 0.0, "equivalent")],
            "equivalent in 1 of 2 comparisons and otherwise",
        ),
    ],
)
def test_headline_follows_the_verdicts(
    fake: ModuleType, rows: list[tuple[str, float, str]], said: str
) -> None:
    arms = read_arms({"arms": fake.arms((1, 5))})
    effects = table(*(contrast(m, b, e, v) for b, (m, e, v) in zip((1, 5), rows, strict=True)))
    assert said in words.headline(effects, arms)


def test_headline_without_comparisons(fake: ModuleType) -> None:
    arms = read_arms({"arms": fake.arms((1,))})
    assert "does not compare" in words.headline(None, arms)
    only = table(
        {
            "metric": "scene",
            "kind": "arm-baseline",
            "arm": "sink_1",
            "reference": "baseline",
            "effect": -1.0,
            "verdict": "different",
        }
    )
    assert "without a random control" in words.headline(only, arms)


@pytest.mark.parametrize(
    ("effect", "verdict", "said"),
    [
        (0.0, "equivalent", "No: with an empty edit"),
        (0.01, "different", "Yes: the empty edit alone moves RMSE"),
        (0.01, "inconclusive", "No drift was shown to differ from zero"),
    ],
)
def test_drift_is_reported_as_found(fake: ModuleType, effect: float, verdict: str, said: str) -> None:
    arms = read_arms({"arms": fake.arms((1,))})
    row = {"metric": "rmse", "kind": "arm-baseline", "arm": "null", "reference": "baseline"}
    assert said in words.drift(table(row | {"effect": effect, "verdict": verdict}), arms).answer


def test_several_controls_of_one_edit_are_kept_apart(fake: ModuleType) -> None:
    from sinkscope.report._verdicts import board

    made = fake.arms((1,))
    made["segment_1"] = made["random_1"] | {
        "control": {"of": "abc", "kind": "segment", "matched": [], "text": "t"}
    }
    arms = read_arms({"arms": made})
    rows = [
        contrast("scene", 1, -0.2, "different"),
        contrast("scene", 1, 0.0, "equivalent") | {"reference": "segment_1"},
    ]
    found = board(words.specific_rows(table(*rows), arms), arms)
    assert found is not None and len(found.doses) == 2 and "segment_1" in found.doses[1]
    assert "sink_1 against segment_1" in words.specificity(table(*rows), arms).answer


def test_comparisons_that_agree_are_said_once(fake: ModuleType) -> None:
    made = fake.arms((1, 5))
    made["segment_1"] = made["random_1"] | {"control": {"of": "abc", "kind": "segment", "text": "t"}}
    arms = read_arms({"arms": made})
    rows = [contrast("scene", budget, 0.0, "inconclusive") for budget in (1, 5)]
    said = words.specificity(table(*rows), arms).answer
    assert "inconclusive at every budget (1 and 5 keys per head)" in said
    rows.append(contrast("scene", 1, 0.0, "inconclusive") | {"reference": "segment_1"})
    said = words.specificity(table(*rows), arms).answer
    assert "inconclusive in every comparison (sink_1 against random_1" in said


def test_arm_roles_pairs_and_names(fake: ModuleType) -> None:
    made = fake.arms((1, 5))
    made["late"] = made["sink_5"] | {"steps": [0.5, 1.0]}
    made["frozen"] = {
        "select": {"Frozen": {"select": {"TopMass": {"shared_keys": 24}}, "step": 0}},
        "action": {"Mask": {}},
    }
    arms = read_arms({"arms": made | {"repeat": None}}, ["mystery"])
    assert (
        arms["baseline"].role == "baseline" and arms["null"].role == "null" and arms["repeat"].role == "null"
    )
    assert (arms["sink_5"].role, arms["sink_5"].budget) == ("sink", 5)
    assert (
        arms["random_1"].role == "random"
        and arms["value_1"].role == "value"
        and arms["mystery"].role == "other"
    )
    assert (arms["frozen"].budget, arms["frozen"].budget_kind, arms["frozen"].role) == (
        24,
        "shared_keys",
        "sink",
    )
    assert arms["late"].dose == "5 keys per head: late" and arms["sink_1"].dose == "1 key per head"
    assert {s.name: c.name if c else None for s, c in pairs(arms, None)}["sink_1"] == "random_1"


def test_top_mass_against_uniform_and_shares_by_hand() -> None:
    summary = pd.DataFrame(
        {
            "step": [0, 1, 0, 1],
            "layer": 3,
            "site": "a",
            "unit": ["p0-s0"] * 2 + ["p1-s0"] * 2,
            "mean_top1": [0.1, 0.3, 0.2, 0.4],
            "keys": 10,
            "arm": "baseline",
            "branch": "cond",
        }
    )
    fact = by_place(summary).iloc[0]
    assert (
        fact["ratio"] == pytest.approx(2.5)
        and fact["peak_step"] == 1
        and fact["peak_ratio"] == pytest.approx(3.5)
    )
    assert (fact["low"], fact["high"]) == pytest.approx(t_interval(np.array([2.0, 3.0]))[1:3])
    traces = pd.DataFrame(
        {
            "step": 0,
            "layer": [0, 0, 1, 1],
            "unit": ["p0-s0"] * 4,
            "rank": [0, 1, 0, 0],
            "mass": 0.5,
            "segment": ["text", "text", "image", "text"],
            "role": ["bos", "pad", None, "pad"],
            "token": ["<s>", "!", None, "!"],
            "position": [0, 5, 7, 5],
            "arm": ["baseline"] * 3 + ["sink"],
        }
    )
    assert len(top_rows(traces)) == 2
    assert dict(kind_table(traces)[["kind", "share"]].to_numpy()) == {"image": 0.5, "text: bos": 0.5}
    assert set(frequent(traces)["label"]) == {"<s>", "position 7"}


def test_places_with_several_or_no_layers() -> None:
    frame = pd.DataFrame({"layer": [0, 0, 1, None], "site": ["a.attn1", "a.attn2", "b.attn1", "mid.attn"]})
    assert places(frame).tolist() == ["a.attn1", "a.attn2", "1", "mid.attn"]


def test_sinks_without_tables_say_so() -> None:
    assert "Not measured" in sinks(None, None, None).answer


def test_numbers_in_words() -> None:
    assert (
        number(float("nan"))
        == number(None)
        == percent(None)
        == times(None)
        == p_value(np.nan)
        == "not available"
    )
    assert number(0) == "0" and number(-0.0421, signed=True) == "−0.042" and number(1e-12) == "1.0e−12"
    assert percent(0.0004) == "< 0.1 %" and percent(0.999) == "99.9 %" and p_value(0.0001) == "< 0.001"
    assert estimate(-0.0417, -0.0824, -0.00097) == ("−0.042", "[−0.082, −0.001]")
    assert estimate(0.0, 0.0, 0.0) == ("0", "[0, 0]")
    assert estimate(0.1, np.nan, np.nan) == ("+0.100", "interval not available")
    assert count(1, "key") == "1 key" and count(1024, "key") == "1,024 keys"


def test_remarks_on_all_contrasts_stand_beside_the_claim(fake: ModuleType) -> None:
    arms = read_arms({"arms": fake.arms((1, 5))})
    rows = [contrast("rmse", b, 0.2, "different") | {"note": f"4 prompts only; row {b}"} for b in (1, 5)]
    assert words.specificity(table(*rows), arms).note.endswith("Remark: 4 prompts only.")


def test_arms_with_a_sampling_of_their_own_are_told_apart() -> None:
    from sinkscope.report._arms import read_arms

    edit = {"select": {"TopMass": {"keys_per_head": 1}}, "action": {"Mask": {}}}
    arms = {
        "weak": {"edits": [], "guidance": 2.0},
        "sink": edit,
        "weak_sink": {"edits": [edit], "guidance": 2.0, "against": "weak"},
    }
    read = read_arms({"arms": arms})
    assert (read["weak"].role, read["weak"].text) == ("other", "no edit; guidance 2.0")
    assert (read["weak_sink"].role, read["weak_sink"].budget) == ("sink", 1)
    assert "guidance 2.0, against weak" in read["weak_sink"].text
    assert read["weak_sink"].family != read["sink"].family
    assert read["weak_sink"].dose != read["sink"].dose


def matched(*rows: tuple[str, str, str, float, float, bool]) -> pd.DataFrame:
    """Rows of `Run.matches()`: reference, property, segment, treated, control, matched."""
    return pd.DataFrame(
        [
            {
                "arm": "sink_" + reference.rpartition("_")[2],
                "reference": reference,
                "control_kind": "count",
                "property": name,
                "segment": segment,
                "treated": treated,
                "control": control,
                "ratio": control / treated,
                "in_call": np.nan,
                "tolerance": 0.05,
                "matched": good,
                "calls": 40,
            }
            for reference, name, segment, treated, control, good in rows
        ]
    )


COUNT = ("random_1", "count", "", 1.0, 1.0, True)
MASS = ("random_1", "mass", "", 0.2, 0.2, True)
SEGMENT = ("random_1", "segment", "text", 0.9, 0.88, True)
LIGHT = ("random_1", "mass", "", 0.2, 0.04, False)
ELSEWHERE = ("random_1", "segment", "text", 0.9, 0.4, False)


def said_of(
    fake: ModuleType,
    table_of_matches: pd.DataFrame | None,
    effects: pd.DataFrame,
    budgets: tuple[int, ...] = (1,),
) -> tuple[str, str]:
    arms = read_arms({"arms": fake.arms(budgets)})
    headline = words.headline(effects, arms, table_of_matches)
    answer = words.specificity(effects, arms, table_of_matches).answer
    assert ("specific" in headline.lower()) == ("specific" in answer.lower())
    return headline, answer


def test_only_a_fully_matched_control_makes_an_effect_specific_to_sinks(fake: ModuleType) -> None:
    effects = table(contrast("rmse", 1, 0.2, "different"))
    for text in said_of(fake, matched(COUNT, MASS, SEGMENT), effects):
        assert text.endswith(
            "This is specific to sinks: the control took as many keys, of as much mass, in the same segments."
        )


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((COUNT, LIGHT, SEGMENT), "The keys of the control held 5.0 times less mass, so this does not show"),
        (
            (COUNT, MASS, ELSEWHERE),
            "The keys of the control lay in other segments (40 % in text, the sinks 90 %), so",
        ),
        (
            (("random_1", "count", "", 2.0, 3.0, False), MASS, SEGMENT),
            "The keys of the control were 1.5 times more, so this does not",
        ),
        (
            (COUNT, LIGHT, ELSEWHERE),
            "held 5.0 times less mass and lay in other segments (40 % in text, the sinks 90 %), so this",
        ),
        ((COUNT, ("random_1", "mass", "", 0.2, 0.2, False), SEGMENT), "held as much mass on average but not"),
        ((COUNT, ("random_1", "mass", "", 0.2, np.nan, False), SEGMENT), "held an unknown mass, so"),
        ((COUNT, ("random_1", "mass", "", 0.2, 0.0, False), SEGMENT), "held no mass, so"),
        ((COUNT, ("random_1", "mass", "", 0.2, 0.21, False), SEGMENT), "held as much mass on average"),
        ((COUNT, ("random_1", "mass", "", 0.2, 0.212, False), SEGMENT), "held 1.1 times more mass, so"),
        ((COUNT, MASS), "lay in segments that were not recorded, so this does not show"),
        ((MASS, SEGMENT), "were an unknown number, so"),
    ],
)
def test_what_is_not_matched_is_named_and_nothing_is_called_specific(
    fake: ModuleType, rows: tuple[tuple[str, str, str, float, float, bool], ...], why: str
) -> None:
    for text in said_of(fake, matched(*rows), table(contrast("rmse", 1, 0.2, "different"))):
        assert why in text and "specific" not in text.lower()
        assert text.endswith("so this does not show that being a sink matters.")


def test_without_a_table_of_matches_nothing_is_called_specific(fake: ModuleType) -> None:
    effects = table(contrast("scene", 1, -0.2, "different"))
    for matches in (None, matched(("random_5", "count", "", 5.0, 5.0, True))):
        for text in said_of(fake, matches, effects):
            assert "How closely the control matches was not measured, so this does not show" in text


@pytest.mark.parametrize(
    ("metric", "effect", "verdict"),
    [("rmse", 0.2, "inconclusive"), ("rmse", 0.0, "equivalent"), ("rmse", -0.2, "different")],
)
def test_no_claim_needs_no_match(fake: ModuleType, metric: str, effect: float, verdict: str) -> None:
    """Nothing differs, or the control moves the image further: there is no claim about sinks to bound."""
    effects = table(contrast(metric, 1, effect, verdict))
    for rows in ((COUNT, MASS, SEGMENT), (COUNT, LIGHT, ELSEWHERE)):
        for text in said_of(fake, matched(*rows), effects):
            assert "specific" not in text.lower() and "control" not in text


def test_matched_and_unmatched_controls_are_told_apart(fake: ModuleType) -> None:
    effects = table(contrast("rmse", 1, 0.2, "different"), contrast("rmse", 5, 0.3, "different"))
    five = [("random_5", "count", "", 5.0, 5.0, True), ("random_5", "mass", "", 0.4, 0.2, False)]
    rows = matched(COUNT, MASS, SEGMENT, *five, ("random_5", "segment", "text", 0.9, 0.9, True))
    for text in said_of(fake, rows, effects, (1, 5)):
        assert "Specific to sinks is the difference in sink_1 against random_1, where" in text
        assert "Elsewhere: the keys of the control held 2.0 times less mass, which does not" in text
    both = matched(COUNT, LIGHT, SEGMENT, *five, ("random_5", "segment", "text", 0.9, 0.9, True))
    assert "held 2.0 to 5.0 times less mass, so" in said_of(fake, both, effects, (1, 5))[0]


def test_a_control_of_equal_mass_is_compared_in_words_of_its_own(fake: ModuleType) -> None:
    made = fake.arms((1,))
    control = {"of": "abc", "kind": "mass", "matched": ["mass"], "text": "as much mass"}
    mass = {"select": {"MatchedMass": {"of": {"TopMass": {"keys_per_head": 1}}}}, "control": control}
    arms = read_arms({"arms": {"sink_1": made["sink_1"], "mass_1": mass}})
    assert (arms["mass_1"].control, arms["mass_1"].role) == ("mass", "other")
    row = contrast("rmse", 1, 0.2, "different") | {"reference": "mass_1"}
    rows = [("mass_1", "count", "", 1.0, 30.0, False), ("mass_1", "mass", "", 0.2, 0.2, True)]
    said = words.headline(table(row), arms, matched(*rows, ("mass_1", "segment", "text", 0.9, 0.9, True)))
    assert said.startswith(
        "Removing sinks changes the image more than removing random keys of as much mass. "
    )
    assert "were 30.0 times more, so this does not show" in said
    point = words.specificity(table(row), arms).points[0]
    assert point.lead.endswith("1 key per head against as much mass")
    assert words.specific_rows(table(row), arms) == []


def test_controls_of_equal_number_keep_the_budget_of_their_treatment() -> None:
    top = {"TopMass": {"keys_per_head": 5}}
    control = {"of": "abc", "matched": [], "text": "t"}
    arms = read_arms(
        {
            "arms": {
                "segment": {
                    "select": {"MatchedRandom": {"of": top}},
                    "control": control | {"kind": "segment"},
                },
                "stay": {"select": {"StandIns": {"of": top}}, "control": control | {"kind": "persistence"}},
                "next": {"select": {"NextMass": {"keys_per_head": 5}}, "control": control | {"kind": "next"}},
            }
        }
    )
    assert [a.control for a in arms.values()] == ["", "segment", "persistence", "next"]
    assert [(a.role, a.budget) for a in arms.values()][1:] == [("segment", 5), ("segment", 5), ("other", 5)]
