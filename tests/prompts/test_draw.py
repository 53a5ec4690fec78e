"""Stratified draws: shares, and what they may not depend on."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkscope import prompts
from sinkscope.errors import UsageError
from sinkscope.prompts import PromptRecord
from sinkscope.prompts._draw import draw

QUICK = settings(max_examples=60, deadline=None)
SETS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1).map(
    lambda sizes: [
        PromptRecord(f"{task}{i}", f"{task} number {i}", task)
        for task, size in sizes.items()
        for i in range(size)
    ]
)


@QUICK
@given(SETS, st.data(), st.integers(0, 5))
def test_shares_are_equal_but_for_tasks_that_run_out(
    records: list[PromptRecord], data: st.DataObject, seed: int
) -> None:
    n = data.draw(st.integers(1, len(records)))
    chosen = draw(records, n, seed=seed, order="stratified", source="the set")
    sizes, shares = Counter(r.task for r in records), Counter(r.task for r in chosen)
    assert len(chosen) == n == len({record.id for record in chosen})
    # A task that did not give all it has gave at least as much, less one, as any other.
    most = max(shares.values())
    assert all(shares[task] >= most - 1 for task in sizes if shares[task] < sizes[task])
    assert chosen == [record for record in records if record in chosen]


@QUICK
@given(SETS, st.randoms(use_true_random=False), st.data(), st.integers(0, 5))
def test_the_draw_depends_on_neither_the_order_nor_the_size_asked_for(
    records: list[PromptRecord], shuffler: object, data: st.DataObject, seed: int
) -> None:
    n = data.draw(st.integers(1, len(records)))
    chosen = {r.id for r in draw(records, n, seed=seed, order="stratified", source="the set")}
    shuffled = list(records)
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert chosen == {r.id for r in draw(shuffled, n, seed=seed, order="stratified", source="the set")}
    for smaller in range(1, n):
        assert chosen > {r.id for r in draw(records, smaller, seed=seed, order="stratified", source="")}


@QUICK
@given(SETS, st.data(), st.integers(0, 5))
def test_a_task_is_drawn_alike_with_and_without_the_others(
    records: list[PromptRecord], data: st.DataObject, seed: int
) -> None:
    n = data.draw(st.integers(1, len(records)))
    for task, share in Counter(
        r.task for r in draw(records, n, seed=seed, order="stratified", source="the set")
    ).items():
        together = [r for r in prompts.load(records, n, seed=seed) if r.task == task]
        assert together == prompts.load(records, share, seed=seed, tasks=task)


def test_another_seed_draws_others_and_no_task_always_comes_first() -> None:
    everything = prompts.load("geneval")
    one, other = (set(r.id for r in prompts.load(everything, 100, seed=seed)) for seed in (0, 1))
    assert len(one & other) < 50
    assert len({prompts.load("geneval", 1, seed=seed)[0].task for seed in range(20)}) >= 4


def test_no_prompt_is_drawn_more_often_than_chance_allows() -> None:
    records = [PromptRecord(f"p{i}", f"prompt number {i}") for i in range(20)]
    drawn = Counter(r.id for seed in range(1000) for r in prompts.load(records, 5, seed=seed))
    # Binomial(1000, 1/4): five standard deviations are 68.
    assert len(drawn) == 20 and all(abs(count - 250) < 69 for count in drawn.values())


def test_tasks_are_chosen_by_name_and_kept_in_the_order_of_the_set() -> None:
    some = prompts.load("geneval", tasks=["position", "counting"])
    assert [record.task for record in some] == ["counting"] * 80 + ["position"] * 100
    shapes = prompts.load("shapes", 12, tasks=["position", "counting"])
    assert Counter(record.task for record in shapes) == {"counting": 6, "position": 6}
    both = prompts.load("shapes", 48)
    assert [r for r in both if r.task == "position"] == prompts.load("shapes", 10, tasks="position")[:8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n=0: expected a whole number from 1"),
        ({"n": 2.5}, "n=2.5: expected a whole number from 1"),
        ({"n": True}, "n=True: expected a whole number"),
        ({"n": 554}, "Asked for 554 prompts, but geneval has 553. Expected 1 to 553"),
        ({"n": 81, "tasks": "counting"}, "geneval with those tasks has 80"),
        ({"seed": -1}, "seed=-1: expected a whole number from 0"),
        ({"tasks": "count"}, "Unknown task of geneval 'count'.*Did you mean 'counting'"),
        ({"tasks": []}, r"tasks=\[\]: expected a task, a list of at least one, or None"),
        ({"tasks": 5}, "tasks=5: expected a task"),
        ({"split": "heldout"}, "split='heldout' is of 'shapes' only; 'geneval' has no splits"),
        ({"order": "first"}, "Unknown order 'first'. Expected one of: stratified, file"),
        ({"repeats": "keep"}, "Unknown way to treat repeats 'keep'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompts.load("geneval", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"tasks": "count"}, {"tasks": ()}, {"seed": -1}, {"n": 10**6}])
def test_the_embedded_set_refuses_the_same(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        prompts.load("shapes", **settings)  # type: ignore[arg-type]
