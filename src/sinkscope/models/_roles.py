"""Mass by segment, role and encoder: all keys, not only the heaviest.

Incoming mass is a mean over queries, so where image queries outnumber text queries they decide alone. The
mass of every stream of queries is therefore kept apart; giving each stream the same weight is left to the
reader of the table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from sinkscope.attention import Measurement, on_device
from sinkscope.models._call import AttentionCall
from sinkscope.models._measure import PADDING
from sinkscope.models._seen import Seen, origin_columns
from sinkscope.models._table import KIND_COLUMNS, Column, Columns
from sinkscope.models._units import Units

if TYPE_CHECKING:
    from sinkscope.models._receipt import Applied

FROM = "from_"
ROLE_COLUMNS = (*KIND_COLUMNS, "keys", "mass")
TAKEOVER_COLUMNS = (*KIND_COLUMNS, "edited", "removed", "gain", "mass_before", "mass_after")


def query_streams(call: AttentionCall) -> list[str]:
    """The streams of queries of a call, each a query group; "all" where none is known."""
    return [name for name in call.query_segments if name != PADDING] or ["all"]


def picked(heads: Sequence[int], mass: Tensor) -> Tensor | slice:
    """Index of some heads of `[row, head, ...]`; all of them need no copy."""
    return slice(None) if len(heads) == mass.shape[1] else on_device(heads, mass.device)


def role_values(
    measured: Measurement, streams: Collection[str], heads: Sequence[int], allowed: Tensor
) -> dict[str, Tensor]:
    """Mass of each key, averaged over heads, for each stream of queries; and which keys are open."""
    pick = picked(heads, next(iter(measured.mass.values())))
    masses = {f"{FROM}{name}": measured.mass[name][:, pick].mean(dim=1).float() for name in streams}
    return {**masses, "open": allowed}


def role_columns(seen: Seen, ranks: list[int], units: Units) -> Columns:
    """Columns of `Observation.roles` for one call: rows, then streams, then kinds."""
    streams = [name for name in seen.values if name.startswith(FROM)]
    allowed = seen.values["open"].numpy()
    masses = [seen.values[name].numpy() for name in streams]
    count = [len(table.kinds.first) for table in seen.tokens]
    per_row = [np.concatenate([_sums(seen, row, mass[row]) for mass in masses]) for row in range(len(count))]
    keys = [np.tile(_sums(seen, row, allowed[row]), len(streams)) for row in range(len(count))]
    named = [np.repeat(np.array(streams, dtype=object), number) for number in count]
    groups = np.concatenate(named)
    return {
        **_repeated(origin_columns(seen, ranks, units), np.array(count) * len(streams)),
        **_kinds(seen, len(streams)),
        "keys": np.concatenate(keys).astype(int),
        "mass": np.concatenate(per_row).astype(np.float32),
        "queries": np.array([name.removeprefix(FROM) for name in groups], dtype=object),
    }


def takeover_columns(applied: Applied, ranks: list[int], units: Units) -> Columns:
    """Columns of `Receipt.takeover` for one edited call: rows, then kinds; means over heads."""
    seen = applied.seen
    before, after = (seen.values[name].double().numpy() for name in ("before", "after"))
    edited = np.zeros(before.shape, dtype=bool)
    edited[applied.places] = True
    change = after - before
    parts = {
        "edited": np.where(edited, before, 0.0).mean(axis=1),
        "removed": np.where(edited, -change, 0.0).mean(axis=1),
        "gain": np.where(edited, 0.0, change).mean(axis=1),
        "mass_before": before.mean(axis=1),
        "mass_after": after.mean(axis=1),
    }
    count = np.array([len(table.kinds.first) for table in seen.tokens])
    sums = {
        name: np.concatenate([_sums(seen, row, part[row]) for row in range(len(count))]).astype(np.float32)
        for name, part in parts.items()
    }
    size = int(count.sum())
    return {
        **_repeated(origin_columns(seen, ranks, units), count),
        **_kinds(seen, 1),
        **sums,
        "queries": np.full(size, seen.queries, dtype=object),
        "edit": np.full(size, applied.edit, dtype=object),
    }


def _sums(seen: Seen, row: int, values: Column) -> Column:
    """Sums of one row's values per key over the keys of each kind."""
    kinds = seen.tokens[row].kinds
    return np.bincount(kinds.codes, weights=values, minlength=len(kinds.first))


def _kinds(seen: Seen, times: int) -> dict[str, Column]:
    """Segment, role and encoder of each kind of each row, `times` times over."""
    taken = [table.take(table.kinds.first) for table in seen.tokens]
    return {name: np.concatenate([np.tile(part[name], times) for part in taken]) for name in KIND_COLUMNS}


def _repeated(columns: Mapping[str, Column], count: Column) -> dict[str, Column]:
    return {name: np.repeat(part, count) for name, part in columns.items()}
