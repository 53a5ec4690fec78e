"""How large an effect a study can find, and how many prompts it needs: for the paired t test and for TOST.

Power is computed exactly for normal differences: from the noncentral t distribution for a difference, and
for equivalence by integrating over the distribution of the estimated standard deviation (Owen's Q; Phillips
1990; Julious 2010). `sd` is always the standard deviation over prompts of the paired difference, column `sd`
of the table of effects; it already holds the noise between seeds at the study's number of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

from sinkscope.errors import UsageError

from ._bootstrap import Floats

MOST_PROMPTS = 10_000_000
"""Above this a number of prompts is not worth naming."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)


class Needed(NamedTuple):
    """How many prompts are needed."""

    n: int | None
    """Smallest number of prompts with at least the power asked for; None when there is none."""
    power: float
    """Power at `n`; NaN without one."""
    reason: str
    """Why there is none, else empty."""


def power_difference(n: int, effect: float, sd: float, *, alpha: float = 0.05) -> float:
    """Chance that the two-sided paired t test of `n` prompts finds a mean difference of `effect`.

    Noncentral t with `n - 1` degrees of freedom and noncentrality `effect * sqrt(n) / sd` (Cohen 1988);
    equals `statsmodels.stats.power.TTestPower`.
    """
    _check(n=n, sd=sd, alpha=alpha)
    shift = abs(effect) * math.sqrt(n) / sd
    limit = stats.t.isf(alpha / 2, n - 1)
    found = stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift)
    if np.isnan(found):  # scipy's noncentral t gives up on large noncentrality; average over s instead
        found = _average(lambda s: special.ndtr(shift - limit * s) + special.ndtr(-shift - limit * s), n - 1)
    return float(min(found, 1.0))


def power_equivalence(n: int, margin: float, sd: float, *, effect: float = 0.0, alpha: float = 0.05) -> float:
    """Chance that TOST with `n` prompts declares a true mean difference of `effect` to be inside the margin.

    Args:
        n: Prompts.
        margin: Half-width of the margin.
        sd: Standard deviation of the paired differences over prompts.
        effect: True mean difference; 0 is the most favourable case.
        alpha: Of each one-sided test.
    """
    _check(n=n, sd=sd, alpha=alpha)
    if not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"Got margin {margin}, expected a positive number in the metric's units.")
    return tost_power(margin, sd / math.sqrt(n), n - 1, effect=effect, alpha=alpha)


def tost_power(margin: float, error: float, df: int, *, effect: float = 0.0, alpha: float = 0.05) -> float:
    """Power of TOST for an estimate with standard error `error` estimated on `df` degrees of freedom.

    `P = E[ max(0, Phi((m - effect)/e - t s) - Phi(-(m + effect)/e + t s)) ]` over `s = sqrt(chi2_df / df)`,
    with `m` the margin, `e` the standard error and `t` the one-sided critical value.
    """
    limit = float(stats.t.isf(alpha, df))
    high, low = (margin - effect) / error, -(margin + effect) / error
    # Where s exceeds m / (t e) the interval is wider than the margin and the difference of Phi is negative.
    total = _average(
        lambda s: np.maximum(special.ndtr(high - limit * s) - special.ndtr(low + limit * s), 0.0),
        df,
        most=margin / (limit * error),
    )
    return min(max(total, 0.0), 1.0)


def _average(of: Callable[[Floats], Floats], df: int, most: float = math.inf) -> float:
    """Mean of `of(s)` over `s = sqrt(chi2_df / df)` up to `most` (Gauss-Legendre on 400 nodes)."""
    most = min(most, math.sqrt(stats.chi2.isf(1e-14, df) / df))
    least = min(math.sqrt(stats.chi2.ppf(1e-14, df) / df), most)
    s = least + (most - least) * (_NODES + 1) / 2
    density = 2 * df * s * stats.chi2.pdf(df * s * s, df)
    return float(np.sum(_WEIGHTS * density * of(s)) * (most - least) / 2)


def prompts_for_difference(effect: float, sd: float, *, power: float = 0.8, alpha: float = 0.05) -> Needed:
    """Prompts that the two-sided paired t test needs to find a mean difference of `effect`."""
    _check(sd=sd, alpha=alpha, power=power)
    if effect == 0:
        return Needed(None, math.nan, "an effect of zero cannot be found; ask for equivalence with a margin")
    return _smallest(lambda n: power_difference(n, effect, sd, alpha=alpha), power)


def prompts_for_equivalence(
    margin: float, sd: float, *, effect: float = 0.0, power: float = 0.8, alpha: float = 0.05
) -> Needed:
    """Prompts that TOST needs to show that a true mean difference of `effect` is inside the margin."""
    _check(sd=sd, alpha=alpha, power=power)
    if abs(effect) >= margin:
        reason = f"a difference of {effect:g} is not inside a margin of {margin:g}"
        return Needed(None, math.nan, reason)
    return _smallest(lambda n: power_equivalence(n, margin, sd, effect=effect, alpha=alpha), power)


def detectable_effect(n: int, sd: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest mean difference that the paired t test of `n` prompts finds with `power` (minimal detectable
    effect).
    """
    _check(n=n, sd=sd, alpha=alpha, power=power)
    return _root(lambda effect: power_difference(n, effect * sd, sd, alpha=alpha) - power, alpha, power) * sd


def detectable_margin(
    n: int, sd: float, *, effect: float = 0.0, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest margin inside which TOST of `n` prompts places a true difference of `effect` with `power`."""
    _check(n=n, sd=sd, alpha=alpha, power=power)
    center = abs(effect) / sd
    found = _root(
        lambda gap: power_equivalence(n, center + gap, 1.0, effect=center, alpha=alpha) - power, 0.0, power
    )
    return (center + found) * sd


def _check(*, sd: float, alpha: float, n: int = 2, power: float = 0.5) -> None:
    if n != int(n) or n < 2:
        raise UsageError(f"Got n={n}, expected a whole number of prompts from 2.")
    if not (np.isfinite(sd) and sd > 0):
        raise UsageError(
            f"Got sd={sd}, expected a positive number: the standard deviation of the differences over "
            "prompts."
        )
    for name, value in (("alpha", alpha), ("power", power)):
        if not 0 < value < 1:
            raise UsageError(f"Got {name}={value}, expected a number between 0 and 1 such as 0.8.")


def _smallest(power_at: Callable[[int], float], power: float) -> Needed:
    low, high = 1, 2
    while power_at(high) < power:
        low, high = high, high * 2
        if high > MOST_PROMPTS:
            return Needed(None, math.nan, f"more than {MOST_PROMPTS:,} prompts")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= power else (middle, high)
    return Needed(high, power_at(high), "")


def _root(gap: Callable[[float], float], floor: float, power: float) -> float:
    """The point in standard deviations where `gap` rises through zero."""
    if floor >= power:
        raise UsageError(f"Got power={power}, expected more than alpha={floor}: every test has that much.")
    high = 1.0
    while gap(high) < 0:
        high *= 2
    return float(optimize.brentq(gap, 1e-12, high, xtol=1e-12, rtol=1e-12))
