"""How far two sets agree by chance alone.

Two sets of a and b keys drawn blindly from the same n keys share a number of keys that is hypergeometric.
Where one set had fewer keys to draw from, its keys are taken to be among those of the other.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.stats import hypergeom

from sinkscope.errors import UsageError
from sinkscope.identity._origin import Floats, Places


@lru_cache(maxsize=65536)
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


def expected(size: Floats, many: Floats, first: Places, second: Places) -> tuple[Floats, Floats]:
    """Both expectations `[group, pair]`; NaN where a set is empty.

    Args:
        size: Keys in each set `[group, item]`.
        many: Keys there are `[group, item]`.
        first: The one item of each pair.
        second: The other.
    """
    sizes, own = np.unique(size.astype(int), return_inverse=True)
    counts, of = np.unique(many.astype(int), return_inverse=True)
    own, of = own.reshape(size.shape), of.reshape(size.shape)
    shape = len(sizes), len(sizes), len(counts)
    place = own[:, first], own[:, second], np.maximum(of[:, first], of[:, second])
    there = np.zeros(shape, dtype=bool)
    there[place] = True
    table = np.full((2, *shape), np.nan)
    for i, j, k in np.argwhere(there).tolist():
        a, b = int(sizes[i]), int(sizes[j])
        if min(a, b) > 0:
            # Keys folded together (frames, heads) may be more than one row's.
            n = max(int(counts[k]), a, b)
            table[:, i, j, k] = chance_jaccard(min(a, b), max(a, b), n), chance_shared(a, b, n)
    told = table[:, *place]
    return told[0], told[1]
