"""Paired tests on differences, one value per prompt. Pure functions on arrays.

Differences that are all exactly equal have no variance, and the t statistic is 0/0 or infinite. The functions
here then answer with the exact sign-flip test instead of NaN or zero: p = 1 when every difference is zero, `2
** (1 - n)` when every difference is the same non-zero number. `effects` writes a note beside such a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sinkscope.errors import UsageError

from ._bootstrap import Floats, checked, is_constant

EXACT_TIED, EXACT_UNTIED = 13, 50
"""Up to this many tied and untied differences the signed-rank test is exact, as in SciPy."""


class Tost(NamedTuple):
    """Two one-sided tests of `|mean| < margin`."""

    p: Floats
    """The larger of the two; small means equivalent."""
    p_lower: Floats
    """Against `mean <= -margin`."""
    p_upper: Floats
    """Against `mean >= margin`."""


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Average `values` `[n]` within each cluster; clusters in sorted order.

    Returns:
        Means `[m]` and the number of values in each cluster `[m]`.
    """
    array = checked(values, least=1)
    _, code = np.unique(np.asarray(clusters), return_inverse=True)
    if code.shape != array.shape:
        raise UsageError(
            f"Got {array.shape} values and {code.shape} cluster labels, expected one label per value."
        )
    count = np.bincount(code)
    return np.bincount(code, weights=array) / count, count.astype(np.int64)


def cohen_dz(differences: ArrayLike) -> Floats:
    """Cohen's dz, mean over standard deviation (ddof 1) of the differences `[..., n]`.

    Zero when every difference is zero; NaN (undefined) when every difference is the same non-zero number.
    """
    d = checked(differences)
    mean, flat = d.mean(axis=-1), is_constant(d)
    sd = np.where(flat, 1.0, d.std(axis=-1, ddof=1))
    return np.where(flat, np.where(mean == 0, 0.0, np.nan), mean / sd)


def paired_t(differences: ArrayLike) -> Floats:
    """Two-sided p of the one-sample t test that the mean of `differences` `[..., n]` is zero."""
    d = checked(differences)
    flat = is_constant(d)
    error = np.where(flat, 1.0, d.std(axis=-1, ddof=1)) / np.sqrt(d.shape[-1])
    p = 2 * stats.t.sf(np.abs(d.mean(axis=-1) / error), d.shape[-1] - 1)
    return np.where(flat, _sign_flip(d), p)


def wilcoxon(differences: ArrayLike) -> Floats:
    """Two-sided p of the Wilcoxon signed-rank test on `differences` `[..., n]`, zeros left out (Wilcoxon's
    own rule).

    How zeros are treated moves p for metrics with few values, such as scene correctness; the rule is fixed
    here. Exact up to 50 untied and up to 13 tied differences, the normal approximation beyond.
    """
    d = checked(differences)
    scale = np.abs(d).max(axis=-1, keepdims=True)
    # Averages over seeds are equal up to rounding only; ranks must still see them as ties and as zeros.
    d = np.round(d / np.where(scale == 0, 1.0, scale), 12)
    rows = d.reshape(-1, d.shape[-1])
    p = [_signed_ranks(row[row != 0]) for row in rows]
    return np.asarray(p, dtype=np.float64).reshape(d.shape[:-1])


def _signed_ranks(row: Floats) -> float:
    if not row.size:
        return 1.0
    ranks = stats.rankdata(np.abs(row))
    _, ties = np.unique(ranks, return_counts=True)
    n, tied = row.size, ties.size < row.size
    if n > (EXACT_TIED if tied else EXACT_UNTIED):
        error = np.sqrt(n * (n + 1) * (2 * n + 1) / 24 - (ties.astype(float) ** 3 - ties).sum() / 48)
        return float(2 * stats.norm.sf(abs(ranks[row > 0].sum() - n * (n + 1) / 4) / error))
    # Exact: among the 2 ** n sign patterns, how many have a rank sum at least as far out. SciPy tries those
    # of tied ranks one by one; counting them by their sum, rank after rank, gives the same number at once.
    whole = np.rint(2 * ranks).astype(np.int64)
    counts = np.ones(1)
    for rank in whole:
        counts = np.pad(counts, (0, rank)) + np.pad(counts, (rank, 0))
    seen = int(whole[row > 0].sum())
    tail = min(counts[: seen + 1].sum(), counts[seen:].sum())
    return min(1.0, 2 * float(tail) / 2.0**n)


def tost(differences: ArrayLike, margin: float) -> Tost:
    """Two one-sided t tests that the mean of `differences` `[..., n]` lies inside `(-margin, margin)`
    (Schuirmann 1987).

    Args:
        differences: One value per prompt.
        margin: Smallest difference of interest, declared before looking; in the metric's own units.

    Raises:
        UsageError: The margin is not a positive number.
    """
    d = checked(differences)
    if not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"Got margin {margin}, expected a positive number in the metric's units.")
    flat, mean, df = is_constant(d), d.mean(axis=-1), d.shape[-1] - 1
    error = np.where(flat, 1.0, d.std(axis=-1, ddof=1)) / np.sqrt(d.shape[-1])
    # Without variance each side is certain or hopeless; 2**-n is the smallest p a one-sided sign-flip test
    # can give.
    sure = 0.5 ** d.shape[-1]
    lower = np.where(flat, np.where(mean > -margin, sure, 1.0), stats.t.sf((mean + margin) / error, df))
    upper = np.where(flat, np.where(mean < margin, sure, 1.0), stats.t.cdf((mean - margin) / error, df))
    return Tost(np.maximum(lower, upper), lower, upper)


def _sign_flip(d: Floats) -> Floats:
    return np.where(d.mean(axis=-1) == 0, 1.0, 0.5 ** (d.shape[-1] - 1))
