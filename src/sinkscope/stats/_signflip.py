"""Sign-flip (randomisation) test of paired differences: exact for few of them, keyed Monte Carlo otherwise.

Under the null hypothesis that arm and reference are exchangeable within each prompt, every pattern of signs
of the differences is equally likely (Fisher 1935; Good 2005). With the sizes of the differences fixed, the
mean and the t statistic order the patterns alike, so this is also the permutation t test.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sinkscope.errors import UsageError

from ._bootstrap import Floats, checked

EXACT = 16
"""Up to this many non-zero differences all `2**n` patterns are counted."""

_BLOCK = 2_000
"""Sign patterns held at once."""


def sign_flip(differences: ArrayLike, *, draws: int = 10_000, rng: np.random.Generator) -> Floats:
    """Two-sided p that `differences` `[..., n]` are symmetric about zero.

    Args:
        differences: One value per prompt. Zeros keep their place and change nothing.
        draws: Sign patterns where they are too many to count; then `p = (1 + hits) / (1 + draws)` (Phipson
            and Smyth 2010), never 0.
        rng: From `keyed_generator`; consumed only where patterns are drawn. Rows share the patterns.

    Returns:
        p of shape `[...]`; 1 where every difference is zero.
    """
    d = checked(differences)
    if draws < 100:
        raise UsageError(f"Got draws={draws}, expected at least 100 (10000 for results to be reported).")
    rows = d.reshape(-1, d.shape[-1])
    p = np.ones(len(rows))
    many = np.count_nonzero(rows, axis=-1) > EXACT
    for row in np.flatnonzero(~many):
        p[row] = _exact(rows[row][rows[row] != 0])
    if many.any():
        p[many] = _drawn(rows[many], draws, rng)
    return p.reshape(d.shape[:-1])


def _exact(values: Floats) -> float:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= abs(values.sum()) - _slack(values)).mean())


def _drawn(rows: Floats, draws: int, rng: np.random.Generator) -> Floats:
    least = np.abs(rows.sum(axis=-1)) - _slack(rows)
    hits = np.zeros(len(rows))
    for start in range(0, draws, _BLOCK):
        shape = (min(_BLOCK, draws - start), rows.shape[-1])
        signs = 2.0 * rng.integers(0, 2, size=shape, dtype=np.int8) - 1.0
        hits += (np.abs(signs @ rows.T) >= least).sum(axis=0)
    return (1 + hits) / (1 + draws)


def _slack(values: Floats) -> Floats:
    """Sums that are equal up to rounding count as equal."""
    return np.asarray(1e-12 * np.abs(values).sum(axis=-1))
