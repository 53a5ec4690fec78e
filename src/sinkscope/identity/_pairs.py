"""Intersections of many pairs of sets at once.

A set is what a head (or a layer) attends to most in one row. Sets are laid out as cell x fold x item: pairs
of items are compared within a cell and a fold, and averaged over the folds of the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sinkscope.identity._chance import expected
from sinkscope.identity._origin import Floats, Places, numbered

MEASURES = ("jaccard", "shared", "chance_jaccard", "chance_shared")
_LIMIT = 20_000_000
"""Entries of the membership array held at once (80 MB)."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Agreement of every pair of items in every cell."""

    cells: pd.DataFrame
    items: list[object]
    first: Places
    second: Places
    values: dict[str, Floats]
    """Measure -> `[cell, pair]`, a mean over folds; NaN where no fold has both items."""


def compare(rows: pd.DataFrame, *, cell: Sequence[str], fold: Sequence[str], item: str) -> Pairs:
    """Compare the sets of every pair of items.

    Args:
        rows: One row per member of a set: the columns of cell, fold and item, `key` and `n_keys`.
        cell: Columns that stay in the result.
        fold: Columns averaged over.
        item: Column whose values are compared in pairs.
    """
    rows = rows[[*cell, *fold, item, "key", "n_keys"]]
    group, groups = numbered(rows, [*cell, *fold])
    of_cell, cells = numbered(groups, cell)
    place, items = numbered(rows, [item])
    key = np.unique(rows["key"].to_numpy(), return_inverse=True)[1]
    many = np.zeros((len(groups), len(items)))
    np.maximum.at(many, (group, place), rows["n_keys"].to_numpy(float))
    first, second = np.triu_indices(len(items), 1)
    sums = {name: np.zeros((len(cells), len(first))) for name in MEASURES}
    count = np.zeros((len(cells), len(first)))
    width = int(key.max()) + 1 if len(key) else 1
    step = max(1, _LIMIT // (len(items) * max(width, len(items))))
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(0, len(groups) + step, step))
    for block, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        if start == stop:
            continue
        base, here = block * step, order[start:stop]
        size = min(step, len(groups) - base)
        member = np.zeros((size, len(items), width), dtype=np.float32)
        member[group[here] - base, place[here], key[here]] = 1.0
        values = _agreement(member, many[base : base + size], first, second)
        told = np.isfinite(values["jaccard"])
        rows_here = of_cell[base : base + size]
        np.add.at(count, rows_here, told)
        for name in MEASURES:
            np.add.at(sums[name], rows_here, np.where(told, values[name], 0.0))
    with np.errstate(invalid="ignore"):
        means = {name: np.where(count > 0, part / count, np.nan) for name, part in sums.items()}
    return Pairs(cells, list(items[item]), first, second, means)


def _agreement(
    member: npt.NDArray[np.float32], many: Floats, first: Places, second: Places
) -> dict[str, Floats]:
    """The four measures `[group, pair]`; NaN where a set is empty."""
    # Numbers of keys are whole, so float32 is exact.
    both = (member @ member.transpose(0, 2, 1))[:, first, second].astype(float)
    size = member.sum(axis=2).astype(float)
    a, b = size[:, first], size[:, second]
    empty = np.minimum(a, b) == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        jaccard = np.where(empty, np.nan, both / (a + b - both))
        shared = np.where(empty, np.nan, both / np.minimum(a, b))
    chance = expected(size, many, first, second)
    return dict(zip(MEASURES, (jaccard, shared, *chance), strict=True))
