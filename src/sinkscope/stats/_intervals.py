"""Intervals of the mean of prompt-level numbers: combined, BCa, percentile, studentised and Student's t.

Which one to trust at which size was measured, see the table in docs/power.md: "combined", the wider of t and
the studentised bootstrap at each end, holds for symmetric, heavy-tailed, skewed and mostly zero differences
alike and is the default. For 0/1 scores only `paired_proportions` holds where few prompts change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from sinkscope.errors import unknown

from ._bootstrap import (
    Floats,
    Interval,
    acceleration,
    bca_ends,
    check_options,
    checked,
    combined_ends,
    is_constant,
    percentile_ends,
    resampled_means,
    studentised_ends,
)
from ._tests import cluster_means

Method = Literal["combined", "bca", "percentile", "studentised", "t"]


def mean_interval(
    values: ArrayLike,
    *,
    method: Method = "combined",
    levels: Sequence[float] = (0.95,),
    draws: int = 10_000,
    rng: np.random.Generator,
) -> list[Interval]:
    """Intervals of the mean over the last axis, one `Interval` per level from the same draws.

    Args:
        values: `[..., n]`, one value per prompt; rows are resampled together.
        method: "combined" (t and studentised, whichever reaches further), "bca" (Efron 1987), "percentile"
            (Efron 1979), "studentised" (the bootstrap-t) or "t" (Student; no draws).
        levels: Confidence levels in (0, 1).
        draws: Bootstrap samples.
        rng: From `keyed_generator`; consumed.

    Returns:
        Per level, ends of shape `[...]`. Rows whose values are all equal give an interval of zero width (the
        bootstrap cannot see variation that did not occur); rows where the method is undefined give NaN.

    Raises:
        UsageError: Fewer than two values, a level outside (0, 1), fewer than 100 draws, an unknown method.
        NonFiniteError: NaN or infinity in `values`.
    """
    array = checked(values)
    check_options(levels, draws)
    if method not in get_args(Method):
        raise unknown("interval method", method, get_args(Method))
    rows = array.reshape(-1, array.shape[-1])
    mean = rows.mean(axis=-1)
    ends = np.stack([np.stack([mean, mean])] * len(levels))
    varied = ~is_constant(rows)
    if varied.any():
        ends[:, :, varied] = _ends(rows[varied], method, levels, draws, rng)
    shape = array.shape[:-1]
    return [Interval(low.reshape(shape), high.reshape(shape)) for low, high in ends]


def bca_interval(
    values: ArrayLike,
    *,
    levels: Sequence[float] = (0.95,),
    draws: int = 10_000,
    rng: np.random.Generator,
) -> list[Interval]:
    """`mean_interval` with `method="bca"`."""
    return mean_interval(values, method="bca", levels=levels, draws=draws, rng=rng)


def clustered_interval(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    within: bool = False,
    method: Method | None = None,
    levels: Sequence[float] = (0.95,),
    draws: int = 10_000,
    rng: np.random.Generator,
) -> list[Interval]:
    """Interval of the mean over prompts of values with several seeds per prompt.

    Prompts count equally. By default whole prompts are resampled, which is the interval of the prompt means:
    it already holds the noise between seeds, since a prompt's mean carries it. With `within`, seeds are
    resampled once more inside every drawn prompt (two-level bootstrap; Davison and Hinkley 1997, section
    3.8): it counts the noise between seeds twice, so it is wider and conservative.

    Args:
        values: `[n]`, one per unit.
        clusters: `[n]`, the prompt of each.
        within: Resample seeds inside the drawn prompts too.
        method: As for `mean_interval`, "combined" by default; with `within` "bca" (the default; acceleration
            from leaving out whole prompts) or "percentile".
        levels: Confidence levels in (0, 1).
        draws: Bootstrap samples.
        rng: From `keyed_generator`; consumed.
    """
    array = checked(values)
    means, count = cluster_means(array, clusters)
    if not within:
        return mean_interval(means, method=method or "combined", levels=levels, draws=draws, rng=rng)
    if method not in (None, "bca", "percentile"):
        raise unknown("interval method within clusters", method, ("bca", "percentile"))
    check_options(levels, draws)
    means = checked(means)
    _, code = np.unique(np.asarray(clusters), return_inverse=True)
    ordered = array[np.argsort(code, kind="stable")]
    if is_constant(ordered[None])[0]:
        return [Interval(means.mean(), means.mean())] * len(levels)
    drawn = _two_level(ordered, count, draws, rng)[None]
    if method == "percentile":
        ends = percentile_ends(drawn, levels)
    else:
        leave_one_out = (means.sum() - means) / (means.size - 1)
        ends = bca_ends(drawn, means.mean()[None], acceleration(leave_one_out[None]), levels)
    return [Interval(low[0], high[0]) for low, high in ends]


def _ends(
    rows: Floats, method: Method, levels: Sequence[float], draws: int, rng: np.random.Generator
) -> Floats:
    mean, n = rows.mean(axis=-1), rows.shape[-1]
    if method == "t":
        error = rows.std(axis=-1, ddof=1) / np.sqrt(n)
        half = [stats.t.isf((1 - level) / 2, n - 1) * error for level in levels]
        return np.stack([np.stack([mean - h, mean + h]) for h in half])
    with_spread = method in ("studentised", "combined")
    means, spreads = resampled_means(rows, draws, rng, spread=with_spread)
    if with_spread:
        make = studentised_ends if method == "studentised" else combined_ends
        return make(means, spreads, rows, levels)
    if method == "percentile":
        return percentile_ends(means, levels)
    # For a mean, leaving value i out moves the estimate by (value - mean) / (n - 1): no loop is needed.
    return bca_ends(means, mean, acceleration(-rows), levels)


def _two_level(ordered: Floats, count: np.ndarray, draws: int, rng: np.random.Generator) -> Floats:
    """Means `[draws]` of resampled prompts whose seeds are resampled too; `ordered` is sorted by prompt."""
    m, most = count.size, int(count.max())
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    out = np.empty(draws)
    for at in range(draws):
        prompts = rng.integers(0, m, size=m)
        k = count[prompts]
        seeds = np.floor(rng.random((m, most)) * k[:, None]).astype(np.int64)
        used = np.arange(most) < k[:, None]
        picked = ordered[start[prompts][:, None] + np.minimum(seeds, k[:, None] - 1)]
        out[at] = ((picked * used).sum(axis=1) / k).mean()
    return out
