"""The bootstrap of a mean, vectorised: draws of prompts, and the ends that percentile, BCa, studentised and
combined intervals take from them.

The draws are keyed, not global: the caller passes a Generator made by `keyed_generator`, and every row of a
stack sees the same resampled prompts, so a row's interval does not depend on which other rows are analysed
with it. With the same draws the numbers equal `scipy.stats.bootstrap` (tested to 1e-10).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import ndtr, ndtri

from sinkscope.errors import NonFiniteError, UsageError

Floats = NDArray[np.float64]

_BLOCK = 100_000
"""Resampled values of one row held at once: small enough for the cache."""


class Interval(NamedTuple):
    """An interval per row; both ends equal where all values of the row are equal."""

    low: Floats
    high: Floats


def keyed_generator(seed: int, *key: object) -> np.random.Generator:
    """Return a generator that depends on `seed` and on the words of `key` alone.

    Args:
        seed: Any non-negative integer.
        *key: What the draws are for, for example the prompt ids; compared through `str`.
    """
    if seed < 0:
        raise UsageError(f"Got seed={seed}, expected a non-negative integer.")
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def checked(values: ArrayLike, *, least: int = 2) -> Floats:
    """Return `values` as float64 `[..., n]`, refusing NaN, infinity and fewer than `least` values."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] < least:
        raise UsageError(
            f"Got an array of shape {array.shape}, expected at least {least} values on the last axis."
        )
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise NonFiniteError(
            f"Got {bad} NaN or infinite of {array.size} values. Score them again or leave the pairs out."
        )
    return array


def check_options(levels: Sequence[float], draws: int) -> None:
    """Refuse confidence levels outside (0, 1) and fewer than 100 draws."""
    if draws < 100:
        raise UsageError(f"Got draws={draws}, expected at least 100 (10000 for results to be reported).")
    if bad := [level for level in levels if not 0 < level < 1]:
        raise UsageError(f"Got confidence level {bad[0]}, expected a number between 0 and 1 such as 0.95.")


def is_constant(values: Floats) -> NDArray[np.bool_]:
    """Say for each row `[...]` of `values` `[..., n]` whether all its values are equal up to float64
    rounding.
    """
    scale = np.abs(values).max(axis=-1)
    spread = values.max(axis=-1) - values.min(axis=-1)
    return np.asarray(spread <= 1e-12 * scale)


def resamples(n: int, draws: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield blocks `[block, n]` of resampled positions, `draws` rows in all.

    The size of a block depends on `n` only: blocks cut the stream of draws, and a row must not depend on its
    neighbours.
    """
    block = max(1, min(draws, _BLOCK // n))
    for start in range(0, draws, block):
        yield rng.integers(0, n, size=(min(block, draws - start), n))


def resampled_means(
    rows: Floats, draws: int, rng: np.random.Generator, *, spread: bool = False
) -> tuple[Floats, Floats]:
    """Means of resampled rows `[row, n]`, and with `spread` their standard deviations (ddof 1).

    Returns:
        Two arrays `[row, draws]`; the second is empty without `spread`.
    """
    count, n = rows.shape
    center = rows.mean(axis=1, keepdims=True)
    gaps = rows - center
    squares = gaps**2
    means = np.empty((count, draws))
    spreads = np.empty((count, draws if spread else 0))
    start = 0
    for index in resamples(n, draws, rng):
        stop = start + len(index)
        share = counts(index, n) / n
        for row in range(count):  # row by row: a stack may be summed in another order than a row alone
            means[row, start:stop] = share @ gaps[row]
            if spread:
                spreads[row, start:stop] = share @ squares[row]
        start = stop
    if spread:
        spreads = np.sqrt(np.maximum(spreads - means**2, 0) * n / (n - 1))
        # A resample of equal values has no spread; the products leave rounding in its place.
        spreads[spreads <= 1e-7 * np.sqrt(squares.max(axis=1, keepdims=True))] = 0
    return means + center, spreads


def counts(index: NDArray[np.int64], n: int) -> Floats:
    """How often each of `n` prompts was drawn `[draw, n]`, from resampled positions `[draw, n]`."""
    flat = (index + n * np.arange(len(index))[:, None]).ravel()
    return np.bincount(flat, minlength=len(index) * n).reshape(len(index), n).astype(np.float64)


def acceleration(jackknife: Floats) -> Floats:
    """BCa's acceleration from leave-one-out estimates `[..., n]` (Efron and Tibshirani 1993, eq. 14.15)."""
    u = jackknife.mean(axis=-1, keepdims=True) - jackknife
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((u**3).sum(axis=-1) / (6 * (u**2).sum(axis=-1) ** 1.5))


def percentile_ends(drawn: Floats, levels: Sequence[float]) -> Floats:
    """Percentile interval `[level, 2, row]` from drawn estimates `[row, draws]` (Efron 1979)."""
    tails = np.array([[(1 - level) / 2, (1 + level) / 2] for level in levels])
    return np.asarray(np.quantile(drawn, tails, axis=-1))


def bca_ends(drawn: Floats, estimate: Floats, accelerate: Floats, levels: Sequence[float]) -> Floats:
    """Bias-corrected and accelerated interval `[level, 2, row]` (Efron 1987; Efron and Tibshirani 1993,
    eq. 14.10).

    Args:
        drawn: Estimates of the resamples `[row, draws]`.
        estimate: Of the sample itself `[row]`.
        accelerate: From `acceleration` `[row]`.
        levels: Confidence levels.

    Returns:
        NaN where every draw lies on one side of the estimate, so that the bias correction is infinite.
    """
    # Averages over seeds tie with the estimate up to rounding only; a tie counts half, as in scipy.
    slack = 1e-12 * np.abs(drawn).max(axis=-1)
    below = sum((drawn <= (estimate + s)[:, None]).sum(axis=-1) for s in (-slack, slack))
    bias = ndtri(below / (2 * drawn.shape[-1]))
    ends = np.full((len(levels), 2, len(drawn)), np.nan)
    for i, level in enumerate(levels):
        for j, tail in enumerate(((1 - level) / 2, (1 + level) / 2)):
            shifted = bias + ndtri(tail)
            with np.errstate(invalid="ignore", divide="ignore"):
                where = ndtr(bias + shifted / (1 - accelerate * shifted))
            for row in np.flatnonzero(np.isfinite(bias) & np.isfinite(where)):
                ends[i, j, row] = np.quantile(drawn[row], where[row])
    return ends


def bootstrap_t(means: Floats, spreads: Floats, rows: Floats) -> Floats:
    """Studentised means `[row, draws]`: how many of its own standard errors each resample's mean lies off.

    Infinite for a resample without spread, unless its mean is that of the sample.
    """
    n = rows.shape[-1]
    gap = means - rows.mean(axis=-1)[:, None]
    gap[np.abs(gap) <= 1e-14 * np.abs(rows).max(axis=-1, keepdims=True)] = 0
    t = np.where(gap > 0, np.inf, np.where(gap < 0, -np.inf, 0.0))
    np.divide(gap * np.sqrt(n), spreads, out=t, where=spreads > 0)
    return t


def studentised_ends(means: Floats, spreads: Floats, rows: Floats, levels: Sequence[float]) -> Floats:
    """Bootstrap-t interval of the mean `[level, 2, row]` (Davison and Hinkley 1997, section 2.4).

    Args:
        means: Of the resamples `[row, draws]`.
        spreads: Their standard deviations `[row, draws]`.
        rows: The sample `[row, n]`.
        levels: Confidence levels.

    Returns:
        NaN where so many resamples have no spread that an end would be infinite.
    """
    center, error = rows.mean(axis=-1), rows.std(axis=-1, ddof=1) / np.sqrt(rows.shape[-1])
    t = bootstrap_t(means, spreads, rows)
    tails = [[(1 + level) / 2, (1 - level) / 2] for level in levels]
    with np.errstate(invalid="ignore"):
        ends = center - np.quantile(t, tails, axis=-1) * error
    return np.where(np.isfinite(ends), ends, np.nan)


def combined_ends(means: Floats, spreads: Floats, rows: Floats, levels: Sequence[float]) -> Floats:
    """The wider of Student's t and the bootstrap-t at each end `[level, 2, row]`; arguments as above.

    The bootstrap-t fails where tails are heavy, t where values are skewed or mostly zero; neither fails where
    the other holds (docs/power.md). Where the bootstrap-t has no finite end, since so few values differ that
    resamples have no spread, the most extreme value takes its place.
    """
    n = rows.shape[-1]
    center, error = rows.mean(axis=-1), rows.std(axis=-1, ddof=1) / np.sqrt(n)
    ends = studentised_ends(means, spreads, rows, levels)
    for i, level in enumerate(levels):
        half = stats.t.isf((1 - level) / 2, n - 1) * error
        low, high = (np.where(np.isnan(end), limit, end) for end, limit in zip(
            ends[i], (rows.min(axis=-1), rows.max(axis=-1)), strict=True
        ))  # fmt: skip
        ends[i] = np.minimum(low, center - half), np.maximum(high, center + half)
    return ends
