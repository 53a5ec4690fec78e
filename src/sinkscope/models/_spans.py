"""Runs of tokens with a name: what a family entry says about a call that orders and lengths do not tell."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """A run of tokens of one segment."""

    name: str
    start: int
    stop: int


class Spans(NamedTuple):
    """Spans of the keys and of the queries of one call: one list for all rows, or a list per row."""

    keys: list[Span] | list[list[Span]]
    queries: list[Span] | list[list[Span]]


def in_order(*streams: tuple[str, int]) -> list[Span]:
    """Spans of streams one behind the other, given by name and length; empty ones are left out."""
    spans, start = [], 0
    for name, length in streams:
        if length:
            spans.append(Span(name, start, start + length))
        start += length
    return spans
