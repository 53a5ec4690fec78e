"""Wrappers on single objects come off in any order and survive copies and other people's wrappers."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

import pytest
import torch

from sinkscope.models._patch import force_eager, wrap


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int, *, twice: bool = False) -> int:
        self.total += amount * (1 + twice)
        return self.total


def noted(log: list[str], name: str) -> Any:
    def subscriber(call_next: Any, args: Any, kwargs: Any) -> Any:
        log.append(name)
        return call_next(*args, **kwargs)

    return subscriber


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_wrappers_come_off_in_any_order(order: tuple[int, int]) -> None:
    counter, log = Counter(), []
    signature = inspect.signature(counter.add)
    undo = [wrap(counter, "add", noted(log, "a")), wrap(counter, "add", noted(log, "b"))]
    assert counter.add(2, twice=True) == 4
    assert log == ["b", "a"]
    assert inspect.signature(counter.add) == signature
    undo[order[0]]()
    log.clear()
    counter.add(1)
    assert log == [["b"], ["a"]][order[0]]
    undo[order[1]]()
    assert "add" not in vars(counter) and counter.add(1) == 6


def test_an_attribute_of_the_instance_is_put_back() -> None:
    counter = Counter()
    own = counter.add = functools.partial(Counter.add, counter, 5)  # type: ignore[method-assign]
    undo = wrap(counter, "add", noted([], "a"))
    assert counter.add() == 5
    undo()
    assert counter.add is own


def test_a_deep_copy_acts_on_itself() -> None:
    counter, log = Counter(), []
    undo = wrap(counter, "add", noted(log, "a"))
    twin = copy.deepcopy(counter)
    twin.add(3)
    undo()
    assert (counter.total, twin.total, log) == (0, 3, [])


def test_somebody_elses_wrapper_on_top_stays() -> None:
    counter, log = Counter(), []
    undo = wrap(counter, "add", noted(log, "a"))
    inner = counter.add

    @functools.wraps(inner)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        log.append("theirs")
        return inner(*args, **kwargs)

    counter.add = theirs  # type: ignore[method-assign]
    undo()
    assert counter.add is theirs
    counter.add(1)
    assert log == ["theirs"] and counter.total == 1
    again = wrap(counter, "add", noted(log, "b"))
    counter.add(1)
    assert log == ["theirs", "theirs", "b"]
    again()
    assert counter.add is theirs


def test_the_stance_is_counted() -> None:
    from torch._dynamo import eval_frame

    def stance() -> str:
        return eval_frame._stance.stance

    with torch.compiler.set_stance("eager_on_recompile"):
        first, second = force_eager(), force_eager()
        first()
        assert stance() == "force_eager"
        second()
        assert stance() == "eager_on_recompile"
    assert stance() == "default"
