"""Questions about numbers on a device, without waiting for the device in every call.

Reading one number of a GPU tensor stops the program until all work that was queued before is done. Inside a
`deferred` block checks are queued and copies to the host are started; `Questions.settle` waits once, then
answers all of them in order. Outside of a block, and on the CPU, a check answers at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sinkscope.errors import NonFiniteError

Check = Callable[[list[float]], None]
"""Gets the numbers and raises where they are wrong."""


class Questions:
    """Checks and copies whose answers are not there yet."""

    def __init__(self) -> None:
        self._asked: list[tuple[Tensor, Check, str]] = []
        self._after: list[Callable[[], None]] = []
        self._devices: set[torch.device] = set()

    def add(self, value: Tensor, check: Check, where: str) -> None:
        """Queue a check of a few numbers (counts or flags)."""
        self._asked.append((value.reshape(-1), check, where))

    def take(self, value: Tensor) -> Tensor:
        """The tensor on the host; its numbers are there once the questions are settled."""
        if value.device.type == "cpu" or (value.is_cuda and torch.cuda.is_current_stream_capturing()):
            return value  # a graph that is being captured has no numbers yet
        self._devices.add(value.device)
        return value.to("cpu", non_blocking=True)

    def then(self, action: Callable[[], None]) -> None:
        """Run something once all numbers are there and no check has failed."""
        self._after.append(action)

    def settle(self) -> None:
        """Wait for the device, answer every check, then do what waited for the numbers.

        Raises:
            SinkscopeError: The first check that failed, with the place it was asked at.
        """
        asked, after, devices = self._asked, self._after, self._devices
        self._asked, self._after, self._devices = [], [], set()
        for device in devices:
            torch.accelerator.synchronize(device)
        for numbers, (_, check, where) in zip(_read([value for value, _, _ in asked]), asked, strict=True):
            try:
                check(numbers)
            except NonFiniteError as error:
                raise NonFiniteError(f"At {where}: {error}" if where else str(error)) from error
        for action in after:
            action()


def on_device(values: Sequence[int | bool], device: torch.device) -> Tensor:
    """A small tensor on a device. `torch.tensor(values, device=device)` waits for all work queued there."""
    return torch.tensor(values).to(device, non_blocking=True)


class _Block(NamedTuple):
    questions: Questions
    where: str
    checked: bool


_OPEN: ContextVar[_Block | None] = ContextVar("sinkscope_questions", default=None)


@contextmanager
def deferred(questions: Questions, where: str = "", *, checked: bool = False) -> Iterator[None]:
    """Queue the checks of this block; whoever opens it calls `questions.settle()` later.

    Args:
        questions: Where they are queued.
        where: What errors begin with.
        checked: The block itself asks whether q, k and v are finite, so `measure` need not.
    """
    token = _OPEN.set(_Block(questions, where, checked))
    try:
        yield
    finally:
        _OPEN.reset(token)


def deferring() -> bool:
    """Whether no number may be read now."""
    return _OPEN.get() is not None


def inputs_are_checked() -> bool:
    """Whether somebody else asks if q, k and v are finite."""
    now = _OPEN.get()
    return now is not None and now.checked


def ask(value: Tensor, check: Check) -> None:
    """Check a few numbers (counts or flags): now, or when the questions of the open block are settled."""
    now = _OPEN.get()
    if now is None:
        check(_numbers(value))
    else:
        now.questions.add(value, check, now.where)


def ask_finite(named: Mapping[str, Tensor | None], error: Callable[[str], Exception]) -> None:
    """Refuse NaN and infinity; `error` gets the names of the tensors that hold some."""
    tensors = {name: t.detach() for name, t in named.items() if t is not None and t.numel()}

    def check(good: list[float]) -> None:
        bad = [name for name, fine in zip(tensors, good, strict=True) if not fine]
        if bad:
            raise error(" and ".join(bad))

    if not tensors or (not deferring() and _sums_are_finite(tensors.values())):
        return
    # The extremes of a tensor carry NaN and infinity along, and need no memory of its size.
    ask(torch.stack([torch.stack(t.aminmax()).isfinite().all() for t in tensors.values()]), check)


def _sums_are_finite(tensors: Iterable[Tensor]) -> bool:
    """One cheap number per tensor, and one read: a sum is finite only if every entry is.

    In the dtype of the tensor, since a sum in another one first builds a tensor of its size.
    """
    sums = [t.sum().float() for t in tensors]
    return bool(torch.stack(sums).isfinite().all())


def _read(values: Sequence[Tensor]) -> list[list[float]]:
    """The numbers of many small tensors, with one transfer per device; whole numbers up to 2^24."""
    found: list[list[float]] = [[] for _ in values]
    for device in {value.device for value in values}:
        here = [index for index, value in enumerate(values) if value.device == device]
        numbers = iter(torch.cat([values[index].float() for index in here]).tolist())
        for index in here:
            found[index] = list(itertools.islice(numbers, values[index].numel()))
    return found


def _numbers(value: Tensor) -> list[Any]:
    return value.reshape(-1).tolist()
