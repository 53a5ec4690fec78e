"""Where an edit or an observation applies: layers, heads, steps, branch.

Steps are either a window of the run in fractions of it, `(0.0, 0.4)`, or a list of 0-based step numbers, `[0,
1, 2]`. A window `(a, b)` holds step `s` of `n` when `a <= s / n` and `s / n < b`, or `b == 1.0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from sinkscope.errors import UsageError, unknown

BRANCHES = ("both", "cond", "uncond")


class StepList(tuple[int, ...]):
    """Step numbers. A type of its own, so that a window is never mistaken for a list of two steps."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(list(self))


Window: TypeAlias = tuple[float, float]
Steps: TypeAlias = Window | StepList
WHOLE_RUN: Window = (0.0, 1.0)


def normal_steps(steps: object) -> Steps:
    """Read `steps=` as a window or a list of step numbers.

    Raises:
        UsageError: neither of the two, or `(0, 1)`, which could be meant as either.
    """
    if steps is None:
        return WHOLE_RUN
    if isinstance(steps, StepList):
        return steps
    if isinstance(steps, int) and not isinstance(steps, bool):
        return _step_list([steps])
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise UsageError(_steps_message(steps))
    values = list(steps)
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        raise UsageError(_steps_message(steps))
    if any(isinstance(value, float) for value in values):
        return _window(values)
    if isinstance(steps, tuple) and values == [0, 1]:
        raise UsageError(
            "steps=(0, 1) is ambiguous. Write (0.0, 1.0) for the whole run or [0, 1] for two steps."
        )
    return _step_list([int(value) for value in values])


def _window(values: Sequence[float]) -> Window:
    if len(values) != 2 or not 0.0 <= values[0] < values[1] <= 1.0:
        raise UsageError(_steps_message(tuple(values)))
    return float(values[0]), float(values[1])


def _step_list(values: Sequence[int]) -> StepList:
    if not values or min(values) < 0 or len(set(values)) != len(values):
        raise UsageError(_steps_message(list(values)))
    return StepList(sorted(values))


def _steps_message(steps: object) -> str:
    return (
        f"Got steps={steps!r}. Expected a window of the run such as (0.0, 0.4) with 0 <= start < end <= 1, "
        "or a list of distinct step numbers such as [0, 1, 2]."
    )


def includes(steps: Steps, step: int, total: int | None) -> bool:
    """Whether `step` (0-based) of a run of `total` steps lies in `steps`.

    Raises:
        UsageError: a window needs the number of steps and a bare module has none; or a listed step does not
            exist.
    """
    if isinstance(steps, StepList):
        if total is not None and steps[-1] >= total:
            missing = ", ".join(str(value) for value in steps if value >= total)
            raise UsageError(f"Unknown step {missing}: this run has {total} steps (0-{total - 1}).")
        return step in steps
    if steps == WHOLE_RUN:
        return True
    if total is None:
        raise UsageError(
            f"Got steps={steps!r}, a window of the run, but a bare module has no number of steps. "
            "List forward calls instead, for example steps=[0, 1]."
        )
    start, end = steps
    return start <= step / total and (step / total < end or end == 1.0)


class StepScope:
    """`steps=` of one `with` block.

    Remembers how far a bare module ran, which alone tells whether a listed step exists.
    """

    def __init__(self, steps: object) -> None:
        self.steps = normal_steps(steps)
        self._ran = 0
        self._total: int | None = None

    def includes(self, step: int, total: int | None) -> bool:
        """Whether a call of this step is meant; see `includes`."""
        self._ran, self._total = max(self._ran, step + 1), total
        return includes(self.steps, step, total)

    def check(self) -> None:
        """Refuse listed steps that a bare module never reached.

        Raises:
            UsageError: names them and how many forward calls there were.
        """
        if (
            self._total is None
            and self._ran
            and isinstance(self.steps, StepList)
            and self.steps[-1] >= self._ran
        ):
            missing = ", ".join(str(step) for step in self.steps if step >= self._ran)
            raise UsageError(
                f"Unknown step {missing}: the module ran {self._ran} forward calls (0-{self._ran - 1})."
            )


def normal_numbers(name: str, values: object) -> tuple[int, ...] | None:
    """Read `layers=` or `heads=`: None (all), one number, or distinct numbers counted from 0."""
    if values is None:
        return None
    if isinstance(values, int) and not isinstance(values, bool):
        values = (values,)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(_numbers_message(name, values))
    numbers = tuple(values)
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise UsageError(_numbers_message(name, numbers))
    if not numbers or len(set(numbers)) != len(numbers):
        raise UsageError(_numbers_message(name, numbers))
    return tuple(sorted(numbers))


def _numbers_message(name: str, values: object) -> str:
    return (
        f"Got {name}={values!r}. Expected distinct numbers counted from 0, for example {name}=[0, 3], "
        "or None for all."
    )


def normal_branch(branch: str) -> str:
    """Check `branch=`."""
    if branch not in BRANCHES:
        raise unknown("branch", branch, BRANCHES)
    return branch


def check_heads(heads: Sequence[int] | None, site: str, count: int) -> None:
    """Refuse heads that a site does not have.

    Raises:
        UsageError: names the first such head and how many heads the site has.
    """
    for head in heads or ():
        if head >= count:
            raise UsageError(f"Unknown head {head}: {site} has {count} heads (0-{count - 1}).")
