"""Calls that carry some queries of a model call only.

An edit limited to some queries issues the model's call for all queries and again for those. Handlers of outer
blocks see both; the second is no call of the model and must not be measured as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SPLIT: ContextVar[bool] = ContextVar("sinkscope_split_call", default=False)


def is_split() -> bool:
    """Whether an inner block is issuing a part of a call."""
    return _SPLIT.get()


@contextmanager
def split(partial: bool) -> Iterator[None]:
    """Mark what runs inside as part of a call, if it is."""
    token = _SPLIT.set(partial or _SPLIT.get())
    try:
        yield
    finally:
        _SPLIT.reset(token)
