"""Interval of the mean difference of two 0/1 scores: Tango's score interval, over prompts.

With few flips every interval that estimates its own standard error is too narrow, and with none it has no
width at all. The score interval tests each possible difference with the variance that this difference would
have, so no flip among 32 prompts leaves differences up to 0.107 open: about `3.8 / n`, the two-sided rule of
three.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from sinkscope.errors import UsageError

from ._bootstrap import Floats, Interval, check_options, checked

_HALVINGS = 52
"""Each end is found to 2 ** -52."""


def paired_proportions(
    differences: ArrayLike, *, level: float = 0.95, seeds: ArrayLike | float = 1
) -> Interval:
    """Score interval of the mean of paired differences of 0/1 scores (Tango 1998).

    Of the closed formulas for paired proportions it keeps its level best where few pairs differ (Fagerland,
    Lydersen and Laake 2014; docs/power.md). With several seeds per prompt, whose differences are averaged,
    prompts stay the unit: the interval is that of as many independent pairs as have the variance that is
    seen over prompts, at least the number of prompts and at most the number of images (a design effect, as in
    Rao and Scott 1992). Where nothing differs that is the number of prompts.

    Args:
        differences: `[..., n]` in [-1, 1], one per prompt: -1, 0 and 1 for one seed, averages for more.
        level: Confidence level.
        seeds: Seeds averaged in each prompt, one number or `[n]`.

    Raises:
        UsageError: Differences outside [-1, 1], or other than -1, 0 and 1 of one seed.
    """
    d = checked(differences)
    check_options((level,), draws=100)
    count = np.broadcast_to(np.asarray(seeds, dtype=np.float64), d.shape[-1:])
    if (np.abs(d) > 1).any() or not np.isin(d[..., count == 1], (-1.0, 0.0, 1.0)).all():
        raise UsageError(
            "Got differences other than -1, 0 and 1, expected those of two 0/1 scores. For averages over "
            "seeds say how many: paired_proportions(d, seeds=4)."
        )
    n = d.shape[-1]
    up, down = np.maximum(d, 0).mean(axis=-1), np.maximum(-d, 0).mean(axis=-1)
    single = up + down - (up - down) ** 2
    seen = d.var(axis=-1, ddof=1) / n
    least, most = float(n), n * n / (1 / count).sum()
    # Without any variance nothing is known about the seeds of a prompt: prompts are what is counted.
    pairs = np.clip(np.divide(single, seen, out=np.full_like(seen, least), where=seen > 0), least, most)
    limit = float(stats.norm.isf((1 - level) / 2))
    low = _end(up, down, pairs, limit)
    return Interval(low, np.asarray(-_end(down, up, pairs, limit)))


def _end(up: Floats, down: Floats, pairs: Floats, limit: float) -> Floats:
    """The lower end: the smallest difference that the score test does not reject."""
    low, high = np.full_like(up, -1.0), up - down
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rejected = (up - down - middle) ** 2 * pairs > limit**2 * _variance(up, down, middle)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return np.asarray((low + high) / 2)


def _variance(up: Floats, down: Floats, gap: Floats) -> Floats:
    """Variance of one pair's difference if its mean were `gap`, other things most likely (Tango, eq. 3)."""
    b = (2 - up + down) * gap - up - down
    c = -down * gap * (1 - gap)
    q = (np.sqrt(np.maximum(b * b - 8 * c, 0)) - b) / 4
    return np.maximum(2 * q + gap * (1 - gap), 0)
