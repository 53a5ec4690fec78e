"""How many times as much: the ratio of two means over the same prompts, with its interval.

For scores with a natural zero, such as a distance to the baseline's image: "removing sinks changes the image
six times as much as removing random keys" is a ratio of mean distances. A mean of ratios would be another
quantity, and one prompt with a small denominator would decide it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from sinkscope.errors import UsageError

from ._bootstrap import Floats, acceleration, bca_ends, check_options, checked, resamples

NAN = float("nan")


class Ratio(NamedTuple):
    """Ratio of means; NaN where `reason` says why there is none."""

    ratio: float
    low: float
    high: float
    """BCa interval over prompts (numerator and denominator of a prompt stay together)."""
    fieller_low: float
    fieller_high: float
    """Fieller's interval, the cross-check that assumes normal means."""
    reason: str
    """Why something is NaN, else empty."""


def ratio_of_means(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    rng: np.random.Generator,
) -> Ratio:
    """`mean(numerator) / mean(denominator)` over prompts.

    Args:
        numerator: `[n]`, one value per prompt, measured from the natural zero of the score.
        denominator: `[n]`, of the same prompts.
        level: Confidence level.
        draws: Bootstrap samples.
        rng: From `keyed_generator`; consumed.

    Returns:
        Without an interval where the denominator may be zero, that is, where its own interval at `level`
        contains zero: then no bounded interval has the level (Fieller 1954; Gleser and Hwang 1987).
    """
    y, x = checked(numerator), checked(denominator)
    check_options((level,), draws)
    if y.ndim != 1 or y.shape != x.shape:
        raise UsageError(f"Got shapes {y.shape} and {x.shape}, expected one value per prompt in both [n].")
    if x.mean() == 0:
        return Ratio(NAN, NAN, NAN, NAN, NAN, "the denominator is zero")
    ratio = float(y.mean() / x.mean())
    if np.abs(y - ratio * x).max() <= 1e-12 * np.abs(y).max():  # exactly proportional
        return Ratio(ratio, ratio, ratio, ratio, ratio, "")
    fieller = fieller_interval(y, x, level=level)
    if math.isnan(fieller[0]):
        return Ratio(ratio, NAN, NAN, NAN, NAN, "the denominator may be zero: no bounded interval")
    drawn = np.concatenate([_ratios(y, x, index) for index in resamples(x.size, draws, rng)])
    leave_one_out = (y.sum() - y) / (x.sum() - x)
    ends = bca_ends(drawn[None], np.array([ratio]), acceleration(leave_one_out[None]), (level,))[0]
    low, high = float(ends[0, 0]), float(ends[1, 0])
    return Ratio(ratio, low, high, *fieller, "BCa interval undefined" if math.isnan(low) else "")


def fieller_interval(
    numerator: ArrayLike, denominator: ArrayLike, *, level: float = 0.95
) -> tuple[float, float]:
    """All ratios `r` that the paired t test of `mean(numerator - r * denominator) = 0` does not reject
    (Fieller 1954).

    Returns:
        NaN twice where these do not form a bounded interval: the denominator's own interval contains zero.
    """
    y, x = checked(numerator), checked(denominator)
    n = x.size
    if y.shape != x.shape or x.ndim != 1:
        raise UsageError(f"Got shapes {y.shape} and {x.shape}, expected one value per prompt in both [n].")
    t2 = float(stats.t.isf((1 - level) / 2, n - 1)) ** 2 / n
    cov = np.cov(x, y)
    a = x.mean() ** 2 - t2 * cov[0, 0]
    b = x.mean() * y.mean() - t2 * cov[0, 1]
    c = y.mean() ** 2 - t2 * cov[1, 1]
    if a <= 0:
        return NAN, NAN
    root = math.sqrt(max(b * b - a * c, 0.0))
    return float((b - root) / a), float((b + root) / a)


def _ratios(y: Floats, x: Floats, index: np.ndarray) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(y.take(index).mean(axis=1) / x.take(index).mean(axis=1))
