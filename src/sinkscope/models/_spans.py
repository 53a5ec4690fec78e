"""Runs of tokens and the masks made of them.

Most models lay all rows out alike, some lay out each row by the length of its own text. A list of spans
stands for all rows or there is one list per row; masks have a row axis only where rows differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._call import AttentionCall
    from ._tracker import Evaluation


class Span(NamedTuple):
    """A run of tokens of one segment."""

    name: str
    start: int
    stop: int
    first: int = 0
    """Position of the first of them within the segment: a segment may be laid out in several runs."""


Row = tuple[Span, ...]


class Spans(NamedTuple):
    """Spans of the keys and of the queries of one call: one list for all rows, or a list per row."""

    keys: list[Span] | list[list[Span]]
    queries: list[Span] | list[list[Span]]


def local_name(call: AttentionCall, evaluation: Evaluation) -> str:
    """Path of the attention module inside its denoiser, whether or not the pipeline has several."""
    return call.site.name.removeprefix(f"{evaluation.part}.") if evaluation.part else call.site.name


def by_row(spans: Sequence[Span] | Sequence[Sequence[Span]], rows: int) -> list[Row]:
    """One tuple of spans per row of the call."""
    shared = [span for span in spans if isinstance(span, Span)]
    if len(shared) == len(spans):
        return [tuple(shared)] * rows
    return [tuple(cast("Sequence[Span]", row)) for row in spans]


def chain(*lengths: tuple[str, int]) -> list[Span]:
    """Segments one behind the other; those of length 0 are left out."""
    spans: list[Span] = []
    counts: dict[str, int] = {}
    start = 0
    for name, length in lengths:
        if length:
            spans.append(Span(name, start, start + length, counts.get(name, 0)))
            counts[name] = counts.get(name, 0) + length
        start += length
    return spans


def runs(labels: Sequence[str | None]) -> list[Span]:
    """Spans of equal labels; None has no name."""
    spans: list[Span] = []
    counts: dict[str, int] = {}
    for position, name in enumerate(labels):
        if name is None:
            continue
        if spans and spans[-1].name == name and spans[-1].stop == position:
            spans[-1] = spans[-1]._replace(stop=position + 1)
        else:
            spans.append(Span(name, position, position + 1, counts.get(name, 0)))
        counts[name] = counts.get(name, 0) + 1
    return spans


def length_of(row: Row, name: str) -> int:
    """Tokens of a segment in one row."""
    return max((span.first + span.stop - span.start for span in row if span.name == name), default=0)


def masks(rows: Sequence[Row], count: int, device: torch.device) -> dict[str, Tensor]:
    """Bool mask of each segment, `[token]` where all rows are alike, else `[row, token]`."""
    alike = len(set(rows)) <= 1
    some = rows[:1] if alike else rows
    found: dict[str, Tensor] = {}
    for number, row in enumerate(some):
        for span in row:
            mask = found.setdefault(span.name, torch.zeros(len(some), count, dtype=torch.bool))
            mask[number, span.start : span.stop] = True
    return {name: (mask[0] if alike else mask).to(device) for name, mask in found.items()}
