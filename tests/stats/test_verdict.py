"""The rule that turns numbers into a word."""

from __future__ import annotations

import pytest

from sinkscope.stats import verdict

CLEAR = {"p_holm": 0.001, "ci": (0.2, 0.4)}
NOTHING = {"p_holm": 1.0, "ci": (-0.1, 0.1)}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (CLEAR, "different"),
        (CLEAR | {"p_holm": 0.06}, "inconclusive"),
        (CLEAR | {"ci": (-0.01, 0.4)}, "inconclusive"),
        (CLEAR | {"ci": (-0.4, -0.2)}, "different"),
        (NOTHING, "inconclusive"),  # an interval that contains zero is not equivalence
        (NOTHING | {"margin": 0.2, "p_tost": 0.01}, "equivalent"),
        (NOTHING | {"margin": 0.2, "p_tost": 0.06}, "inconclusive"),
        (NOTHING | {"margin": 0.1, "p_tost": 0.01}, "inconclusive"),  # the interval must lie strictly inside
        (CLEAR | {"margin": 0.5, "p_tost": 0.01}, "equivalent"),  # non-zero, surely smaller than the margin
        (CLEAR | {"margin": 0.1, "p_tost": 0.99}, "different"),
        (NOTHING | {"identical": True}, "equivalent"),
        ({"p_holm": float("nan"), "ci": (float("nan"),) * 2}, "inconclusive"),
        (CLEAR | {"p_holm": 0.03, "level": 0.99}, "inconclusive"),
    ],
)
def test_rule(case, expected):
    assert verdict(**case) == expected
