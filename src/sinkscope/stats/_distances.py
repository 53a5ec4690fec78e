"""Distances between two sets of images, as features: KID, CMMD and Frechet distance, in float64.

The sets of a study are paired: an arm and its reference have the same prompts and seeds. Images of one prompt
resemble each other, within a set and across, so the kernel distances leave out every pair of one prompt;
otherwise an edit that changes nothing would seem closer to its reference than a second sample of the same
model. This is the U-statistic of Gretton et al. (2012, eq. 4) with the prompt as what is drawn: unbiased at
any number of prompts, and 0 for equal sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sinkscope.errors import NonFiniteError, UsageError

from ._bootstrap import keyed_generator

Floats = NDArray[np.float64]
Kernel = Callable[[Floats, Floats], Floats]

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
FRECHET_DRAWS = 200
"""Resamples of a Frechet distance, which each cost a singular value decomposition."""
_BLOCK = 256


class Distance(NamedTuple):
    """A distance between two paired sets."""

    value: float
    low: float
    """Lower end of the bootstrap interval over prompts."""
    high: float
    p: float
    """Of the hypothesis that arm and reference can be swapped within every prompt; NaN where not computed."""


def polynomial(x: Floats, y: Floats) -> Floats:
    """KID's kernel `(x.y / d + 1) ** 3` (Binkowski et al. 2018, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Floats, y: Floats) -> Floats:
    """CMMD's kernel `1000 exp(-|x - y|^2 / (2 * 10^2))` (Jayasumana et al. 2024), its scale included."""
    square = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return CMMD_SCALE * np.exp(-np.maximum(square, 0) / (2 * CMMD_SIGMA**2))


def mmd(x: ArrayLike, y: ArrayLike, kernel: Kernel = polynomial) -> float:
    """Unbiased squared maximum mean discrepancy of two independent samples (Gretton et al. 2012, eq. 3).

    Args:
        x: Features `[n, d]`.
        y: Features `[m, d]`, drawn independently of `x`.
        kernel: `polynomial` (KID) or `gaussian` (CMMD).
    """
    a, b = _features(x, y)
    n, m = len(a), len(b)
    aa, bb = kernel(a, a), kernel(b, b)
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * kernel(a, b).mean())


def paired_mmd(
    x: ArrayLike,
    y: ArrayLike,
    prompts: Sequence[object],
    *,
    kernel: Kernel = polynomial,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Distance:
    """Squared maximum mean discrepancy of paired sets, with an interval and a test over prompts.

    The interval is the percentile interval of the bootstrap over prompts; the test swaps arm and reference of
    whole prompts, which multiplies each term by a sign, and is exact at any number of prompts.

    Args:
        x: Features of the arm `[n, d]`.
        y: Features of the reference `[n, d]`, of the same units.
        prompts: The prompt of each unit.
        kernel: `polynomial` (KID) or `gaussian` (CMMD).
        level: Of the interval.
        draws: Resamples of prompts, and swaps.
        seed: Of both; they depend on it and on the prompts alone.

    Raises:
        UsageError: Fewer than two prompts, or sets that are not paired.
        NonFiniteError: A feature is NaN or infinite.
    """
    a, b = _features(x, y)
    groups, names = _groups(a, b, prompts)
    h = _summed(kernel(a, a) + kernel(b, b) - kernel(a, b) - kernel(b, a), groups, len(names))
    sizes = np.bincount(groups).astype(np.float64)
    pairs = np.outer(sizes, sizes)
    np.fill_diagonal(h, 0)
    np.fill_diagonal(pairs, 0)
    value = float(h.sum() / pairs.sum())
    rng = keyed_generator(seed, "distance", *names)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(np.float64)
    # A draw of one prompt alone has no pair to compare.
    weights = weights[(weights > 0).sum(1) > 1]
    drawn = _forms(weights, h) / _forms(weights, pairs)
    signs = rng.choice([-1.0, 1.0], size=(draws, len(names)))
    swapped = _forms(signs, h) / pairs.sum()
    slack = 1e-12 * np.abs(h).sum() / pairs.sum()
    p = float((1 + (swapped >= value - slack).sum()) / (1 + draws))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Distance(value, float(low), float(high), p)


def frechet(x: ArrayLike, y: ArrayLike) -> float:
    """Frechet distance between the Gaussians of two sets (Heusel et al. 2017): covariances with `n - 1`.

    `Tr sqrt(S1 S2)` is the sum of the singular values of `Xc Yc' / sqrt((n - 1) (m - 1))`, which costs a
    matrix of n x m instead of square roots of d x d, and needs no small number on the diagonal.

    Args:
        x: Features `[n, d]`.
        y: Features `[m, d]`.
    """
    a, b = _features(x, y)
    gap = a.mean(0) - b.mean(0)
    left, right = (_root(values) for values in (a, b))
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    return float(gap @ gap + (left**2).sum() + (right**2).sum() - 2 * cross)


def paired_frechet(
    x: ArrayLike,
    y: ArrayLike,
    prompts: Sequence[object],
    *,
    level: float = 0.95,
    draws: int = FRECHET_DRAWS,
    seed: int = 0,
) -> Distance:
    """Frechet distance of paired sets with the basic bootstrap interval over prompts.

    A resample repeats images, which adds to the distance what small samples add anyhow; the basic interval
    mirrors the resamples at the estimate and so takes that off instead of adding it twice. Arguments and
    errors as for `paired_mmd`.
    """
    a, b = _features(x, y)
    groups, names = _groups(a, b, prompts)
    value = frechet(a, b)
    members = [np.flatnonzero(groups == group) for group in range(len(names))]
    rng = keyed_generator(seed, "distance", *names)
    drawn = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        drawn.append(frechet(a[rows], b[rows]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Distance(value, float(2 * value - high), float(2 * value - low), float("nan"))


def _root(values: Floats) -> Floats:
    """A matrix whose square is the covariance, with as few rows as rank allows."""
    centred = (values - values.mean(0)) / np.sqrt(len(values) - 1)
    if len(values) <= values.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"))


def _features(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise UsageError(
            f"Got features of shapes {a.shape} and {b.shape}, expected [images, dimension] with at least 2 "
            "images each and one dimension for both."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise NonFiniteError("Got features that are NaN or infinite. Check the images and the weights.")
    return a, b


def _groups(a: Floats, b: Floats, prompts: Sequence[object]) -> tuple[NDArray[np.int64], list[str]]:
    """Number of each unit's prompt, and the prompts."""
    if not len(a) == len(b) == len(prompts):
        raise UsageError(
            f"Got {len(a)} and {len(b)} images and {len(prompts)} prompts, expected the same units in both "
            "sets and a prompt for each."
        )
    names, groups = np.unique([str(prompt) for prompt in prompts], return_inverse=True)
    if len(names) < 2:
        raise UsageError("Got images of one prompt, expected at least 2 prompts to compare.")
    return groups, [str(name) for name in names]


def _summed(matrix: Floats, groups: NDArray[np.int64], count: int) -> Floats:
    """Sums `[group, group]` of a matrix over the members of groups."""
    rows = np.zeros((count, matrix.shape[1]))
    np.add.at(rows, groups, matrix)
    out = np.zeros((count, count))
    np.add.at(out.T, groups, rows.T)
    return out


def _forms(weights: Floats, matrix: Floats) -> Floats:
    """Quadratic forms `w' M w` of each row of weights."""
    blocks = [weights[start : start + _BLOCK] for start in range(0, len(weights), _BLOCK)]
    return np.concatenate([np.einsum("dg,dg->d", block @ matrix, block) for block in blocks])
