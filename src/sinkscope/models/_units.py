"""Which unit a batch row belongs to, over all generations of one `with` block.

Units are counted through: a first pipeline call with three prompts holds units 0, 1, 2, a second one starts
at 3. Names given by the caller are used in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sinkscope.errors import UsageError
from sinkscope.models._call import AttentionCall


class RowId(NamedTuple):
    """What a batch row is, independent of where it stands in the batch."""

    branch: str
    unit: int
    """Running number within the `with` block."""
    repeat: int
    """Counts rows of the same branch and unit, as in sites whose batch holds frames or windows."""


class Units:
    """Numbers the units of successive generations and knows their names."""

    def __init__(self, names: Sequence[str] | None) -> None:
        if isinstance(names, str) or (names is not None and len(set(names)) != len(names)):
            raise UsageError(
                f"Got units={names!r}. Expected distinct names, one per generated image, in order."
            )
        self.names = None if names is None else tuple(str(name) for name in names)
        self._first: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    def rows(self, call: AttentionCall) -> tuple[RowId, ...]:
        """Identify the rows of a call.

        Raises:
            UsageError: more units are generated than were named.
        """
        first = self._first.setdefault(call.generation, sum(self._counts.values()))
        count = max([self._counts.get(call.generation, 0), *(info.unit + 1 for info in call.rows)])
        self._counts[call.generation] = count
        if self.names is not None and first + count > len(self.names):
            raise UsageError(
                f"Got {len(self.names)} names in units=, but at least {first + count} units are being "
                "generated. Expected one name per generated image, in order."
            )
        seen: dict[tuple[str, int], int] = {}
        rows = []
        for info in call.rows:
            key = (info.branch, first + info.unit)
            rows.append(RowId(*key, seen.get(key, 0)))
            seen[key] = seen.get(key, 0) + 1
        return tuple(rows)

    def label(self, unit: int) -> str:
        """The caller's name of a unit, or its running number: what random draws are keyed by."""
        return str(unit) if self.names is None else self.names[unit]

    def column(self, rows: Sequence[RowId]) -> npt.NDArray[Any]:
        """Names of the units of `rows`, or their running numbers, as a table column."""
        if self.names is None:
            return np.array([row.unit for row in rows], dtype=int)
        return np.array([self.names[row.unit] for row in rows], dtype=object)
