"""Units, batches and noise."""

from __future__ import annotations

import re

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.study.small import tiny_study

from sinkscope.prompts import PromptRecord
from sinkscope.study import Unit, make_plan


def prompt(name: str) -> PromptRecord:
    return PromptRecord(id=name, text=f"text {name}", task="custom", metadata={})


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 9), size=st.integers(1, 5), seeds=st.integers(1, 3))
def test_every_unit_sits_in_the_same_slot_in_every_arm(count: int, size: int, seeds: int) -> None:
    prompts = [prompt(str(index)) for index in range(count)]
    plan = make_plan(tiny_study(seeds=range(seeds)), prompts, size)
    slots: dict[str, set[tuple[int, int, int]]] = {}
    for task in plan.tasks():
        for slot, unit in enumerate(task.batch.units):
            slots.setdefault(unit.id, set()).add((task.batch.index, slot, len(task.batch.units)))
    assert len(slots) == count * seeds
    assert all(len(places) == 1 for places in slots.values())
    assert plan.images == sum(len(task.batch.units) for task in plan.tasks())


def test_noise_depends_on_prompt_and_seed_alone() -> None:
    def noise(name: str, seed: int) -> torch.Tensor:
        return torch.randn(8, generator=Unit("any", prompt(name), seed).generator())

    assert torch.equal(noise("a", 0), noise("a", 0))
    assert not torch.equal(noise("a", 0), noise("b", 0))
    assert not torch.equal(noise("a", 0), noise("a", 1))
    seeds = {Unit("any", prompt(str(index)), seed).noise_seed for index in range(300) for seed in range(4)}
    assert len(seeds) == 1200


@settings(max_examples=20, deadline=None)
@given(
    names=st.lists(
        st.from_regex(r"[A-Za-z0-9_.-]{0,79}[a-z]", fullmatch=True), min_size=2, max_size=4, unique=True
    )
)
def test_unit_ids_are_file_names_and_stay_apart(names: list[str]) -> None:
    plan = make_plan(tiny_study(), [prompt(name) for name in names], 2)
    ids = [unit.id for unit in plan.units]
    assert len({name.lower() for name in ids}) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{1,120}", name) for name in ids)


def test_ids_that_differ_in_case_alone_stay_apart() -> None:
    first, second = make_plan(tiny_study(), [prompt("Cat"), prompt("cat")], 2).units
    assert first.id.lower() != second.id.lower()


def test_plain_ids_stay_as_they_are() -> None:
    assert make_plan(tiny_study(), [prompt("color_003")], 1).units[0].id == "color_003-s0"
