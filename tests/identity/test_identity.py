"""Shares by role, persistence, and who takes over: against sums done by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.identity import made

from sinkscope import identity
from sinkscope.errors import UsageError

IMAGE, BOS, WORDS, EOS, PAD = (
    ("image", None),
    ("text", "bos"),
    ("text", "content"),
    ("text", "eos"),
    ("text", "pad"),
)
MASSES = {
    "image": {IMAGE: 0.6, BOS: 0.2, WORDS: 0.1, EOS: 0.05, PAD: 0.05},
    "text": {IMAGE: 0.2, BOS: 0.2, WORDS: 0.3, EOS: 0.1, PAD: 0.2},
}


def share(table: pd.DataFrame, of: str, name: str, **place: object) -> float:
    rows = table[(table["of"] == of) & (table["class"] == name)]
    for column, value in place.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return float(rows["share"].iloc[0])


def test_classes_and_kinds() -> None:
    frame = pd.DataFrame(
        {
            "segment": ["image", "text", "text", "text", "text", "text", "register", None],
            "role": [None, "bos", "eos", "template", "content", None, None, None],
        }
    )
    assert list(identity.classes(frame)) == [
        "image", "structure", "structure", "structure", "content", "text without role", "register", "unknown",
    ]  # fmt: skip
    assert list(identity.kinds(frame))[:2] == ["image", "text: bos"] and identity.kinds(frame)[5] == "text"


def test_shares_count_sinks_weigh_mass_and_balance_the_queries() -> None:
    # Head 0 attends to the begin mark; head 1 to the image, in layer 1 to padding.
    sinks = made.sinks(
        lambda step, branch, unit, layer, head: [20] if head == 0 else [3 if layer == 0 else 26]
    )
    sinks.loc[sinks["head"] == 0, "mass"] = 0.9
    table = identity.identity(sinks, made.roles(MASSES, unit=("a-s0", "b-s0", "c-s0")), parts=("class",))
    assert share(table, "sinks", "structure", branch="cond") == 0.5
    assert share(table, "sinks", "padding", branch="uncond") == 0.25
    assert share(table, "sink mass", "structure", branch="cond") == pytest.approx(0.9 / 1.4)
    assert share(table, "mass", "image", queries="image") == pytest.approx(0.6)
    assert share(table, "mass", "image", queries="balanced") == pytest.approx(0.4)
    assert share(table, "mass", "structure", queries="balanced") == pytest.approx(0.275)
    assert share(table, "keys", "structure") == pytest.approx(2 / 30)
    row = table[(table["of"] == "sinks") & (table["class"] == "structure") & (table["branch"] == "cond")]
    assert row["times_keys"].iloc[0] == pytest.approx(0.5 / (2 / 30))
    assert list(row["n_prompts"]) == [3] and row["ci_low"].iloc[0] == 0.5


def test_a_prompt_counts_once_whatever_its_seeds_and_masked_queries_do_not_count() -> None:
    names = ["a-s0", "a-s1", "b-s0"]
    sinks = made.sinks(lambda step, branch, unit, layer, head: [20 if unit[0] == "a" else 3], units=names)
    table = identity.identity(sinks, units=made.units(names), parts=("class",))
    assert share(table, "sinks", "structure", branch="cond") == 0.5
    assert set(table["n_prompts"]) == {2} and set(table["n_units"]) == {3}
    roles = made.roles(MASSES)
    roles.loc[(roles["queries"] == "text") & (roles["layer"] == 1), "mass"] = np.nan
    table = identity.identity(roles=roles, parts=("class",))
    assert share(table, "mass", "image", queries="balanced") == pytest.approx((0.4 + 0.6) / 2)


@settings(max_examples=4, deadline=None)
@given(
    size=st.integers(1, 4),
    seed=st.integers(0, 1000),
    by=st.sampled_from([("branch",), ("layer", "step"), ()]),
    parts=st.sampled_from([("segment", "role"), ("class",), ("segment", "role", "encoder")]),
)
def test_shares_sum_to_one(size: int, seed: int, by: tuple[str, ...], parts: tuple[str, ...]) -> None:
    names = ["a-s0", "b-s0", "b-s1"]
    sinks = made.sinks(made.blind(size, seed), units=names, steps=(0, 1))
    settings_ = {"units": made.units(names), "by": by, "parts": parts, "level": None}
    table = identity.identity(sinks, made.roles(MASSES), **settings_)
    sums = table.groupby(["arm", "of", "queries", *by], dropna=False)["share"].sum()
    np.testing.assert_allclose(sums, 1)
    assert table["ci_low"].isna().all() and table["share"].between(0, 1).all()


def test_intervals_hold_the_share_and_need_two_prompts() -> None:
    sinks = made.sinks(made.blind(2, 3), units=[f"p{i}-s0" for i in range(12)])
    table = identity.identity(sinks, parts=("class",))
    rows = table[table["of"] == "sinks"]
    assert (rows["ci_low"] <= rows["share"]).all() and (rows["share"] <= rows["ci_high"]).all()
    assert (rows["ci_low"] < rows["ci_high"]).all()
    one = identity.identity(sinks[sinks["unit"] == "p0-s0"], parts=("class",))
    assert one["ci_low"].isna().all() and not one["share"].isna().any()
    with pytest.raises(UsageError, match="neither sinks nor roles"):
        identity.identity()
    with pytest.raises(UsageError, match="without the columns mass"):
        identity.identity(sinks.drop(columns="mass"))
    with pytest.raises(UsageError, match="Unknown unit 'p0-s0'"):
        identity.identity(sinks, units=made.units(["p1-s0"]))


@settings(max_examples=10, deadline=None)
@given(held=st.lists(st.booleans(), min_size=2, max_size=9), start=st.integers(0, 5))
def test_persistence_counts_steps_and_streaks(held: list[bool], start: int) -> None:
    steps = range(start, start + len(held))
    sinks = made.sinks(lambda step, *_: [7 if held[step - start] else 8 + step], steps=steps, units=["a-s0"])
    told = identity.persistence(sinks)
    assert list(told.columns[: len(sinks.columns)]) == list(sinks.columns) and len(told) == len(sinks)
    kept = told[told["key"] == 7]
    assert (kept["steps_held"] == sum(held)).all() and (told["steps_seen"] == len(held)).all()
    np.testing.assert_allclose(kept["persistence"], sum(held) / len(held))
    runs = "".join("x" if value else " " for value in held)
    for _, row in kept.iterrows():
        place = row["step"] - start
        left = place - len(runs[:place]) + len(runs[:place].rstrip("x"))
        right = runs[place:].find(" ")
        assert row["streak"] == (len(runs) if right < 0 else place + right) - left
    assert (told.loc[told["key"] != 7, "streak"] == 1).all()


def test_a_constant_set_persists_whole() -> None:
    told = identity.persistence(made.sinks(lambda *_: [4, 25]))
    assert (told["persistence"] == 1).all() and (told["streak"] == 4).all()
    gap = identity.persistence(made.sinks(lambda *_: [4], steps=(0, 5, 9)))
    assert (gap["streak"] == 3).all(), "recorded steps count, not step numbers"


def takeover(gains: dict[tuple[str, str | None], float]) -> pd.DataFrame:
    base = {"step": 0, "branch": "cond", "layer": 0, "site": "blocks.0.attn", "queries": "image", "edit": "e"}
    rows = []
    for unit in ("a-s0", "b-s0"):
        for (segment, name), gain in gains.items():
            edited = 0.3 if name == "bos" else 0.1 if segment == "image" else 0.0
            before = MASSES["image"][segment, name] + (0.2 if name == "bos" else 0.0)
            rows.append(
                {**base, "unit": unit, "segment": segment, "role": name, "arm": "sink", "edited": edited}
            )
            rows[-1] |= {"removed": edited, "gain": gain, "mass_before": before, "mass_after": 0.0}
    return pd.DataFrame(rows)


def test_takers_share_what_was_removed() -> None:
    table = identity.takers(
        takeover({IMAGE: 0.1, BOS: 0.0, WORDS: 0.2, EOS: 0.02, PAD: 0.08}), parts=("class",)
    )
    told = table.set_index("class")
    np.testing.assert_allclose(told[["removed", "gain", "expected"]].sum(), 1)
    assert told.loc["structure", "removed"] == pytest.approx(0.75)
    assert told.loc["content", "gain"] == pytest.approx(0.5)
    # What the untouched keys had: image 0.5, bos 0.1, content 0.1, eos 0.05, padding 0.05.
    assert told.loc["image", "expected"] == pytest.approx(0.5 / 0.8)
    empty = takeover({IMAGE: 0.0}).assign(removed=0.0)
    assert identity.takers(empty).empty


def test_compensation_compares_the_next_key_with_the_removed_one() -> None:
    place = {"timestep": 1.0, "branch": "cond", "layer": 0, "site": "s", "edit": "e", "arm": "sink"}
    place |= {"queries": "image", "evaluation": 0}
    receipts, gains, summary = [], [], []
    for unit, step, head in (("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("a", 1, 1), ("b", 0, 0), ("b", 1, 0)):
        where = {**place, "unit": unit, "step": step, "head": head}
        before, heaviest = (0.4, 0.1) if head == 0 else (0.2, 0.3)
        receipts.append({**where, "keys": 1, "mass_before": before, "mass_after": 0.0})
        gains.append({**where, "rank": 0, "gain": 0.05, "mass_after": heaviest})
        gains.append({**where, "rank": 1, "gain": 0.01, "mass_after": 0.9})
    for unit, step in (("a", 0), ("a", 1), ("b", 0), ("b", 1)):
        row = {**place, "arm": "baseline", "unit": unit, "step": step, "mean_top1": 0.2, "top5_mass": 0.5}
        summary.append({name: value for name, value in row.items() if name != "edit"})
    receipts.append({**receipts[0], "head": 9, "keys": 0, "mass_before": 0.0})
    tables = pd.DataFrame(receipts), pd.DataFrame(gains)
    told = identity.compensation(*tables, summary=pd.DataFrame(summary), budgets={"sink": 1})
    assert len(told) == 2 and told["site"].isna().sum() == 1
    row = told.iloc[0]
    # Unit a: heads 0 and 1; unit b: head 0 alone.
    assert row["removed"] == pytest.approx((0.3 + 0.4) / 2)
    assert row["taken"] == pytest.approx((0.05 / 0.3 + 0.05 / 0.4) / 2)
    assert row["relative"] == pytest.approx((0.4 / 0.6 + 0.1 / 0.4) / 2)
    assert row["replaced"] == pytest.approx((0.5 + 0.0) / 2)
    assert row["regrowth"] == pytest.approx((0.3 / 0.2 + 0.4 / 0.2) / 2)
    other = identity.compensation(*tables, summary=pd.DataFrame(summary), budgets={"sink": 3})
    assert other["regrowth"].isna().all() and identity.compensation(*tables)["regrowth"].isna().all()
