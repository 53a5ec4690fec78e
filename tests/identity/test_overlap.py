"""Overlap of sets: symmetric, one for equal sets, at chance for blind ones."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.identity import made

from sinkscope import identity
from sinkscope.errors import UsageError

NAMES = ["a-s0", "a-s1", "b-s0", "b-s1"]


def overall(table: object) -> object:
    return table[table["site"].isna()].set_index(["between", "branch"])  # type: ignore[index]


def test_equal_sets_agree_in_everything() -> None:
    sinks = made.sinks(lambda *_: [3, 21], units=NAMES)
    table = identity.overlap(sinks, units=made.units(NAMES))
    assert list(dict.fromkeys(table["between"])) == [
        "next step", "steps", "layers", "branches", "seeds", "prompts",
    ]  # fmt: skip
    assert (table["jaccard"] == 1).all() and (table["shared"] == 1).all()
    np.testing.assert_allclose(table["chance_shared"], 2 / made.KEYS)
    np.testing.assert_allclose(table["chance_jaccard"], identity.chance_jaccard(2, 2, made.KEYS))
    assert set(table.loc[table["between"] == "layers", "site"]) == {None} or table["site"].isna().any()
    assert (table.loc[table["between"] != "prompts", "ci_low"] == 1).all()


def test_each_comparison_sees_only_its_own_axis() -> None:
    """A key that depends on one axis alone: full agreement along every other one."""
    axes = {
        "steps": lambda step, branch, unit, layer, head: [step],
        "layers": lambda step, branch, unit, layer, head: [layer],
        "branches": lambda step, branch, unit, layer, head: [int(branch == "cond")],
        "seeds": lambda step, branch, unit, layer, head: [int(unit[-1])],
        "prompts": lambda step, branch, unit, layer, head: [ord(unit[0]) - 97],
    }
    for axis, chosen in axes.items():
        table = identity.overlap(made.sinks(chosen, units=NAMES), units=made.units(NAMES), level=None)
        means = table[table["site"].isna()].groupby("between")["jaccard"].mean()
        for name, value in means.items():
            moved = name == axis or (name, axis) == ("next step", "steps")
            assert value == (0 if moved else 1), (axis, name)


def test_heads_are_not_compared_with_other_heads() -> None:
    sinks = made.sinks(lambda step, branch, unit, layer, head: [10 * head + layer])
    table = identity.overlap(sinks, level=None)
    steps = table[(table["between"] == "steps") & table["site"].isna()]
    assert (steps["jaccard"] == 1).all()
    layers = table[table["between"] == "layers"]
    assert (layers["jaccard"] == 0).all() and layers["site"].isna().all()


def test_layers_with_other_keys_are_left_out() -> None:
    sinks = made.sinks(lambda *_: [1], layers=(0, 1, 2))
    sinks.loc[sinks["layer"] == 2, "times_uniform"] *= 4
    pairs = identity.overlap_pairs(sinks)
    layers = pairs[pairs["between"] == "layers"]
    assert set(zip(layers["a"], layers["b"], strict=True)) == {("blocks.0.attn", "blocks.1.attn")}


@settings(max_examples=4, deadline=None)
@given(size=st.integers(1, 5), seed=st.integers(0, 1000))
def test_pairs_are_those_of_sets(size: int, seed: int) -> None:
    sinks = made.sinks(made.blind(size, seed), units=["a-s0", "b-s0"])
    pairs = identity.overlap_pairs(sinks)
    sets = sinks.groupby(["branch", "unit", "layer", "step", "head"])["key"].agg(set)
    steps = pairs[pairs["between"] == "steps"]
    assert len(steps) == 2 * 2 * 6
    for row in steps.to_dict("records"):
        both = []
        for unit, head in product(("a-s0", "b-s0"), (0, 1)):
            a, b = (sets[row["branch"], unit, row["layer"], row[x], head] for x in "ab")
            both.append(len(a & b) / len(a | b))
            assert len(a & b) / len(a | b) == len(b & a) / len(b | a)
        assert row["jaccard"] == pytest.approx(np.mean(both))
    turned = sinks.assign(step=3 - sinks["step"])
    back = identity.overlap_pairs(turned)
    theirs = back[back["between"] == "steps"]
    theirs = theirs.assign(a=3 - theirs["b"].astype(int), b=3 - theirs["a"].astype(int))
    place = ["branch", "layer", "a", "b"]
    both_ways = steps.astype({"a": int, "b": int}).merge(theirs, on=place, suffixes=("", "_turned"))
    assert len(both_ways) == len(steps)
    np.testing.assert_allclose(both_ways["jaccard"], both_ways["jaccard_turned"])


@pytest.mark.parametrize("size", [1, 4])
def test_blind_sets_agree_by_chance(size: int) -> None:
    names = [f"{letter}-s{seed}" for letter in "abcdefgh" for seed in (0, 1)]
    sinks = made.sinks(made.blind(size, 11), units=names, steps=range(8), heads=3)
    table = identity.overlap(sinks, units=made.units(names), draws=500)
    rows = table[table["site"].isna() & (table["between"] != "layers")]
    np.testing.assert_allclose(rows["jaccard"], rows["chance_jaccard"], atol=0.03)
    np.testing.assert_allclose(rows["shared"], rows["chance_shared"], atol=0.03)
    assert (rows["ci_low"] <= rows["chance_jaccard"] + 0.01).all()
    assert (rows["ci_high"] >= rows["chance_jaccard"] - 0.01).all()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_chance_is_the_mean_over_random_sets(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    a, b = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    rng = np.random.default_rng(n * 10_000 + a * 100 + b)
    fixed = np.arange(n) < a
    drawn = rng.permuted(np.tile(np.arange(n) < b, (2000, 1)), axis=1)
    both = (drawn & fixed).sum(axis=1)
    assert identity.chance_jaccard(a, b, n) == pytest.approx((both / (a + b - both)).mean(), abs=0.03)
    assert identity.chance_shared(a, b, n) == pytest.approx((both / min(a, b)).mean(), abs=0.04)
    assert identity.chance_jaccard(a, b, n) == pytest.approx(identity.chance_jaccard(b, a, n))


def test_impossible_sets_are_refused() -> None:
    for sizes in ((0, 1, 5), (6, 1, 5), (2, 9, 5)):
        with pytest.raises(UsageError, match="among 5 keys"):
            identity.chance_jaccard(*sizes)


def test_the_jackknife_interval_between_prompts_holds_the_truth() -> None:
    """Sinks are one shared key with probability p: the Jaccard between prompts is p * p in expectation."""
    hits, p = 0, 0.6
    for seed in range(20):
        rng = np.random.default_rng(seed)
        names = [f"p{i}-s0" for i in range(16)]
        held = {name: rng.random() < p for name in names}
        own = {name: 1 + index for index, name in enumerate(names)}
        sinks = made.sinks(
            lambda step, branch, unit, *_, held=held, own=own: [0 if held[unit] else own[unit]],
            units=names, steps=(0,), branches=("cond",), layers=(0,), heads=1,
        )  # fmt: skip
        table = identity.overlap(sinks, units=made.units(names))
        row = table[(table["between"] == "prompts") & table["site"].isna()].iloc[0]
        hits += row["ci_low"] <= p * p <= row["ci_high"]
    assert hits >= 17


def test_an_observation_needs_no_arm_and_no_units() -> None:
    sinks = made.sinks(lambda *_: [2]).drop(columns=["arm", "queries", "evaluation"])
    assert set(identity.overlap(sinks)["arm"]) == {"observed"}
    assert set(identity.overlap_pairs(sinks[sinks["step"] == 0])["between"]) == {"layers"}
    with pytest.raises(UsageError, match="times_uniform"):
        identity.overlap(sinks.drop(columns="times_uniform"))
