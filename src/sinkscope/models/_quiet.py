"""A thread-local switch: while the layout probe runs a model, open sessions neither see nor count its
calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_state = threading.local()


@contextmanager
def quiet() -> Iterator[None]:
    """Make every session deaf in this thread."""
    before = is_quiet()
    _state.on = True
    try:
        yield
    finally:
        _state.on = before


def is_quiet() -> bool:
    """Whether sessions shall look away."""
    return getattr(_state, "on", False)
