"""One call of the model that an inner block issues several times.

An edit that reaches some rows, heads or queries only issues the model's call as it is and again as edited.
Handlers of outer blocks see both, one after the other: the second stands in the place of the first, and where
it holds some queries only it is no call of the model and must not be measured as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from sinkscope.models._call import AttentionCall


class _Issuing(NamedTuple):
    origin: object
    """One object per call of the model."""
    partial: bool


_ISSUING: ContextVar[_Issuing | None] = ContextVar("sinkscope_issuing", default=None)


@contextmanager
def issuing(origin: object, *, partial: bool) -> Iterator[None]:
    """Tell outer blocks that what is issued inside belongs to the call `origin`, and whether it is a part."""
    outer = _ISSUING.get()
    mark = _Issuing(origin, partial) if outer is None else _Issuing(outer.origin, partial or outer.partial)
    token = _ISSUING.set(mark)
    try:
        yield
    finally:
        _ISSUING.reset(token)


def is_partial() -> bool:
    """Whether an inner block is issuing some queries of a call only."""
    mark = _ISSUING.get()
    return mark is not None and mark.partial


# What a session works out from the place of a call among those of its module, which counts issues.
_IDENTITY = ("site", "rows", "key_segments", "query_segments", "token_source")


class Origins:
    """Gives calls that an inner block issued again the identity of the first one."""

    def __init__(self) -> None:
        self._last: object = None
        self._identity: dict[str, Any] = {}

    def settle(self, call: AttentionCall) -> AttentionCall:
        """The call under the identity of the model call it belongs to."""
        mark = _ISSUING.get()
        if mark is None:
            return call
        if mark.origin is self._last:
            return call.replace(**self._identity)
        self._last, self._identity = mark.origin, {name: getattr(call, name) for name in _IDENTITY}
        return call
