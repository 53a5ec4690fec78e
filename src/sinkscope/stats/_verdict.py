"""The one rule that turns an effect into a word.

In this order, with `alpha = 1 - level`:

1. `inconclusive` when no test could be done, or the caller says that too few pairs are left.
2. `equivalent` when every pair is known to be identical (equivalent for any margin), or when a margin was
   declared, TOST gives p < 0.05 and the whole interval at the study's level lies strictly inside `(-margin,
   margin)`. The interval is what keeps the error rate: at a true effect on the margin TOST alone accepts 12 %
   of skewed samples of 32 prompts, TOST and the 95 % interval 5 % (docs/power.md).
3. `different` when the Holm-adjusted p is below alpha and the interval excludes zero.
4. `inconclusive` otherwise.

Step 2 comes first because the margin is the smallest effect of interest: a difference that is statistically
non-zero and surely smaller than that is reported as equivalent, and the note says that it is non-zero. TOST
is not adjusted for multiplicity; each claim of equivalence stands against its own declared margin. An
interval that merely contains zero is never called equivalent.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Verdict = Literal["different", "equivalent", "inconclusive"]
IntervalVerdict = Literal["within", "beyond", "nonzero", "unresolved"]

TOST_ALPHA = 0.05
"""Of each one-sided test; the interval inside the margin is what is harder to reach."""


def is_different(p_holm: float, ci: tuple[float, float], level: float) -> bool:
    """Rule 3 above. NaN anywhere is not a difference."""
    return bool(p_holm < 1 - level and (ci[0] > 0 or ci[1] < 0))


def inside(interval: tuple[float, float], margin: float) -> bool:
    """Whether an interval lies strictly inside `(-margin, margin)`; NaN anywhere is not inside."""
    return bool(interval[0] > -margin and interval[1] < margin)


def verdict(
    *,
    p_holm: float,
    ci: tuple[float, float],
    level: float = 0.95,
    p_tost: float = np.nan,
    margin: float = np.nan,
    identical: bool = False,
) -> Verdict:
    """Apply the rule of this module to one effect.

    Args:
        p_holm: Adjusted two-sided p.
        ci: Interval of the effect at `level`.
        level: Confidence level of `ci`; its complement is the threshold for `p_holm`.
        p_tost: TOST p, NaN without a margin.
        margin: Declared margin, NaN when none was.
        identical: Every pair is exactly equal, and not by chance as with 0/1 scores.
    """
    if identical:
        return "equivalent"
    if p_tost < TOST_ALPHA and inside(ci, margin):
        return "equivalent"
    return "different" if is_different(p_holm, ci, level) else "inconclusive"


def interval_verdict(
    *, ci: tuple[float, float], ci90: tuple[float, float], margin: float
) -> IntervalVerdict | None:
    """Where the intervals of an effect lie relative to `(-margin, margin)`: nothing but the intervals speaks.

    The word says what has been shown about the size of the effect (Lakens, Scheel and Isager 2018, figure 1):

    - "within": the 90 % interval lies strictly inside the margin (equivalence at 5 %);
    - "beyond": the interval at the study's level lies wholly outside, on one side (minimum-effect test);
    - "nonzero": it excludes zero, but whether the effect exceeds the margin is open;
    - "unresolved": none of these.

    Not adjusted for multiplicity; `verdict` is.

    Args:
        ci: Interval of the effect at the study's level.
        ci90: 90 % interval.
        margin: The margin; NaN when there is none.

    Returns:
        None without a margin or without intervals.
    """
    if np.isnan(margin) or np.isnan([*ci, *ci90]).any():
        return None
    if inside(ci90, margin):
        return "within"
    if ci[0] > margin or ci[1] < -margin:
        return "beyond"
    return "nonzero" if ci[0] > 0 or ci[1] < 0 else "unresolved"
