"""Which steps and heads an edit means."""

from __future__ import annotations

import pytest

from sinkscope.errors import UsageError
from sinkscope.models._scope import StepList, StepScope, check_heads, includes, normal_steps


@pytest.mark.parametrize(
    ("steps", "total", "expected"),
    [
        ((0.0, 1.0), 5, [0, 1, 2, 3, 4]),
        ((0.0, 0.4), 5, [0, 1]),
        ((0.4, 0.8), 5, [2, 3]),
        ((0.5, 1.0), 5, [3, 4]),
        ((0.0, 0.01), 20, [0]),
        ([1, 3], 5, [1, 3]),
        (2, 5, [2]),
        (None, 3, [0, 1, 2]),
    ],
)
def test_windows_and_lists(steps: object, total: int, expected: list[int]) -> None:
    normal = normal_steps(steps)
    assert [step for step in range(total) if includes(normal, step, total)] == expected
    assert normal_steps(normal) == normal


def test_windows_that_touch_share_no_step() -> None:
    for total in (1, 7, 20, 28, 50):
        first, second = ([s for s in range(total) if includes(w, s, total)] for w in ((0.0, 0.3), (0.3, 1.0)))
        assert first + second == list(range(total))


def test_a_list_of_two_steps_is_no_window() -> None:
    assert normal_steps([0, 1]) == (0, 1) and isinstance(normal_steps([0, 1]), StepList)
    assert repr(normal_steps([0, 1])) == "[0, 1]"


def test_steps_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match=r"Unknown step 20: this run has 20 steps \(0-19\)"):
        includes(normal_steps([0, 20]), 0, 20)
    with pytest.raises(UsageError, match="bare module"):
        includes((0.0, 0.5), 0, None)
    scope = StepScope([0, 3])
    assert [scope.includes(step, None) for step in range(2)] == [True, False]
    with pytest.raises(UsageError, match=r"Unknown step 3: the module ran 2 forward calls \(0-1\)"):
        scope.check()


def test_heads_that_do_not_exist() -> None:
    check_heads((0, 2), "block.attn", 3)
    with pytest.raises(UsageError, match=r"Unknown head 3: block.attn has 3 heads \(0-2\)"):
        check_heads((0, 3), "block.attn", 3)
