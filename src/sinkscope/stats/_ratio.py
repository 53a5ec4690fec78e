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

from ._bootstrap import Floats, bootstrap_t, check_options, checked, resampled_means

NAN = float("nan")


class Ratio(NamedTuple):
    """Ratio of means; NaN where `reason` says why there is none."""

    ratio: float
    low: float
    high: float
    """Over prompts (numerator and denominator of a prompt stay together): the wider of Fieller's and the
    bootstrap-t interval at each end."""
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

    The interval holds the ratios `r` for which the mean of `numerator - r * denominator` is not shown to
    differ from zero, by t (Fieller's interval) or by the bootstrap-t at the estimated ratio (Hwang 1995). Of
    what was compared only their wider ends hold for skewed and for symmetric scores (docs/power.md).

    Returns:
        Where the denominator may be zero, that is, where its own interval contains zero by either measure, no
        bounded interval has the level (Fieller 1954; Gleser and Hwang 1987): `high` is infinite for values
        that are not negative, such as distances, and there is no interval for others.
    """
    y, x = checked(numerator), checked(denominator)
    check_options((level,), draws)
    if y.ndim != 1 or y.shape != x.shape:
        raise UsageError(f"Got shapes {y.shape} and {x.shape}, expected one value per prompt in both [n].")
    if x.mean() == 0:
        return Ratio(NAN, NAN, NAN, NAN, NAN, "the denominator is zero")
    if x.mean() < 0:  # SSIM - 1, say: turned around, numerator over denominator stays
        y, x = -y, -x
    ratio = float(y.mean() / x.mean())
    if np.abs(y - ratio * x).max() <= 1e-12 * np.abs(y).max():  # exactly proportional
        return Ratio(ratio, ratio, ratio, ratio, ratio, "")
    fieller = fieller_interval(y, x, level=level)
    positive = min(y.min(), x.min()) >= 0
    if math.isnan(fieller[0]) and not positive:
        return Ratio(ratio, NAN, NAN, NAN, NAN, "the denominator may be zero: no interval")
    rest = (y - ratio * x)[None]
    drawn = bootstrap_t(*resampled_means(rest, draws, rng, spread=True), rest)[0]
    with np.errstate(invalid="ignore"):
        below, above = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    t = float(stats.t.isf((1 - level) / 2, x.size - 1))
    lows = [_low(y, x, limit) if positive else _root(y, x, limit, -1) for limit in (t, float(above))]
    highs = [_root(y, x, limit, 1) for limit in (t, float(below))]
    if np.isnan(lows).any():
        return Ratio(ratio, NAN, NAN, *fieller, "the denominator may be zero: no interval")
    if np.isnan(highs).any():
        reason = "the denominator may be zero, or hangs on few prompts: no upper bound"
        return Ratio(ratio, min(lows), math.inf, *fieller, reason)
    return Ratio(ratio, min(lows), max(highs), *fieller, "")


def fieller_interval(
    numerator: ArrayLike, denominator: ArrayLike, *, level: float = 0.95
) -> tuple[float, float]:
    """All ratios `r` that the paired t test of `mean(numerator - r * denominator) = 0` does not reject
    (Fieller 1954).

    Returns:
        NaN twice where these do not form a bounded interval: the denominator's own interval contains zero.
    """
    y, x = checked(numerator), checked(denominator)
    if y.shape != x.shape or x.ndim != 1:
        raise UsageError(f"Got shapes {y.shape} and {x.shape}, expected one value per prompt in both [n].")
    t = float(stats.t.isf((1 - level) / 2, x.size - 1))
    return _root(y, x, t, -1), _root(y, x, t, 1)


def _root(y: Floats, x: Floats, t: float, side: int) -> float:
    """The smaller (`side` -1) or larger (1) `r` at which `mean(y - r x)` lies `t` standard errors off zero;
    NaN where there is none.
    """
    if not math.isfinite(t):
        return NAN
    t2 = t**2 / x.size
    cov = np.cov(x, y)
    a = x.mean() ** 2 - t2 * cov[0, 0]
    b = x.mean() * y.mean() - t2 * cov[0, 1]
    c = y.mean() ** 2 - t2 * cov[1, 1]
    return float((b + side * math.sqrt(max(b * b - a * c, 0.0))) / a) if a > 0 else NAN


def _low(y: Floats, x: Floats, t: float) -> float:
    """The ratio below the estimate at which `mean(y - r x)` lies `t` standard errors above zero, of values
    that are not negative; 0 where none is.
    """
    t2 = t**2 / x.size
    cov = np.cov(x, y)
    c = y.mean() ** 2 - t2 * cov[1, 1]
    if not (math.isfinite(t) and c > 0):
        return 0.0
    # b + sqrt(b^2 - a c) in the denominator: it holds for an unsafe denominator (a <= 0) too.
    a, b = x.mean() ** 2 - t2 * cov[0, 0], x.mean() * y.mean() - t2 * cov[0, 1]
    return float(c / (b + math.sqrt(max(b * b - a * c, 0.0))))
