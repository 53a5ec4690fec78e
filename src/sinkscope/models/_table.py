"""Columns that every table of this room shares, and token identities as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from sinkscope.models._call import AttentionCall, Site, Token
from sinkscope.models._units import RowId

Column: TypeAlias = npt.NDArray[Any]
Columns: TypeAlias = Mapping[str, Column]

TOKEN_COLUMNS = ("segment", "position", "token", "role", "encoder", "image_row", "image_column")
FRAME_COLUMN = "frame"
"""Behind all other columns, and only in tables of video models."""
REPEAT_COLUMN = "repeat"
"""Counts the frames, places or windows that a call folds into its rows; as the frame."""
KIND_COLUMNS = ("segment", "role", "encoder")
_TOKEN_FIELDS = ("segment", "position", "text", "role", "encoder", "row", "column")
_WHOLE_NUMBERS = ("layer", "position", "image_row", "image_column", FRAME_COLUMN, REPEAT_COLUMN)


class Kinds(NamedTuple):
    """The keys of a row sorted by segment, role and encoder."""

    codes: Column
    """Number of each key's kind."""
    first: Column
    """For each kind the first key of it."""


class TokenTable:
    """The keys of one batch row as arrays, so that tables of many sinks need no loop over them."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._columns = {
            column: np.array([getattr(token, name) for token in tokens], dtype=object)
            for column, name in zip(TOKEN_COLUMNS, _TOKEN_FIELDS, strict=True)
        }
        frames = np.array([token.frame for token in tokens], dtype=object)
        if any(frame is not None for frame in frames):
            self._columns[FRAME_COLUMN] = frames
        self._segments: dict[str, Column] | None = None

    def segments(self) -> dict[str, Column]:
        """Segment name to bool `[key]`: the keys whose identity names that segment."""
        if self._segments is None:
            names = self._columns["segment"]
            self._segments = {name: names == name for name in dict.fromkeys(names.tolist())}
        return self._segments

    def take(self, keys: Column) -> dict[str, Column]:
        """Identities of `keys` (any shape), flattened."""
        return {name: values[keys.ravel()] for name, values in self._columns.items()}

    @cached_property
    def kinds(self) -> Kinds:
        """Keys of the same segment, role and encoder under one number, in order of appearance."""
        known: dict[tuple[Any, ...], int] = {}
        first: list[int] = []
        codes = np.empty(len(self._columns["segment"]), dtype=int)
        for key, kind in enumerate(zip(*(self._columns[name] for name in KIND_COLUMNS), strict=True)):
            if kind not in known:
                known[kind] = len(known)
                first.append(key)
            codes[key] = known[kind]
        return Kinds(codes, np.array(first, dtype=int))


class Tokens:
    """Token tables per generation: layers that see the same keys share one."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[TokenTable, ...]] = {}

    def of(self, call: AttentionCall, rows: tuple[RowId, ...]) -> tuple[TokenTable, ...]:
        """One table per row of the call."""
        # Each call of a bare module may be given other inputs of the same size.
        bare = call.evaluation if call.step_count is None else None
        signature = (call.generation, bare, call.site.kind, tuple(call.key_segments), call.k.shape[2], rows)
        if signature not in self._known:
            self._known[signature] = tuple(TokenTable(tokens) for tokens in call.tokens())
        return self._known[signature]


def identities(tables: Sequence[TokenTable], rows: Column, keys: Column) -> dict[str, Column]:
    """Identities of keys, given by the row they belong to and their index."""
    # Temporal attention has a row for every place of a frame: sort once instead of searching for each.
    order = np.argsort(rows, kind="stable")
    parts = np.split(order, np.searchsorted(rows[order], np.arange(1, len(tables))))
    taken = [(here, tokens.take(keys[here])) for here, tokens in zip(parts, tables, strict=True)]
    names = [*TOKEN_COLUMNS, *([FRAME_COLUMN] if any(FRAME_COLUMN in part for _, part in taken) else [])]
    columns = {name: np.full(len(keys), None, dtype=object) for name in names}
    for here, part in taken:
        for name, values in part.items():
            columns[name][here] = values
    return columns


def site_name(site: Site) -> str:
    """The module path; where a module makes several calls, with the visit and the number of the call."""
    return site.name if site.visit == 0 and (site.per_row or site.index == 0) else site.lasting_key


def stack(parts: Iterable[Columns], order: Sequence[str]) -> pd.DataFrame:
    """Put parts below each other, `order` first.

    Columns that only some parts have (the mass on segments that only some sites have) are NaN elsewhere.
    """
    groups: dict[tuple[str, ...], list[Columns]] = {}
    for part in parts:
        groups.setdefault(tuple(part), []).append(part)
    frames = [
        pd.DataFrame({name: np.concatenate([part[name] for part in same]) for name in names})
        for names, same in groups.items()
    ]
    if not frames:
        return pd.DataFrame(columns=list(order))
    table = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    for name in _WHOLE_NUMBERS:
        if name in table:
            table[name] = table[name].astype("Int64" if table[name].isna().any() else "int64")
    return table[[*order, *(name for name in table.columns if name not in order)]]
