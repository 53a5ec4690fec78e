"""How far two sets agree by chance alone.

Two sets of a and b keys drawn blindly from the same n keys share a number of keys that is hypergeometric.
Where one set had fewer keys to draw from, its keys are taken to be among those of the other.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.stats import hypergeom

from sinkscope.errors import UsageError
from sinkscope.identity._origin import Floats


@lru_cache(maxsize=4096)
def chance_jaccard(a: int, b: int, n: int) -> float:
    """Expected size of the intersection over the size of the union of random sets.

    Args:
        a: Keys of the one set, at least 1.
        b: Keys of the other.
        n: Keys there are.
    """
    _check(a, b, n)
    shared = np.arange(max(0, a + b - n), min(a, b) + 1)
    return float((hypergeom.pmf(shared, n, a, b) * shared / (a + b - shared)).sum())


def chance_shared(a: int, b: int, n: int) -> float:
    """Expected share of the smaller set that the other holds too: the larger size over n."""
    _check(a, b, n)
    return max(a, b) / n


def _check(a: int, b: int, n: int) -> None:
    if not 1 <= min(a, b) <= max(a, b) <= n:
        raise UsageError(f"Got sets of {a} and {b} keys among {n} keys. Expected sizes from 1 to {n}.")


def expected(a: Floats, b: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Both expectations for arrays of sizes; NaN where a set is empty."""
    sizes = np.stack([a, b, n], axis=-1).reshape(-1, 3)
    distinct, back = np.unique(sizes, axis=0, return_inverse=True)
    values = np.full((len(distinct), 2), np.nan)
    for row, size in enumerate(distinct):
        x, y, many = (int(part) for part in size)
        if min(x, y) > 0:
            # Keys folded together (frames, heads) may be more than one row's.
            many = max(many, x, y)
            values[row] = chance_jaccard(x, y, many), chance_shared(x, y, many)
    told = values[back.reshape(-1)].reshape(*np.shape(a), 2)
    return told[..., 0], told[..., 1]
