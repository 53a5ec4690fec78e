"""Gradient checkpointing: the repeated forward pass must be the one that was edited.

`Tensor.backward` is opaque to function modes, so a checkpointed block would be recomputed without the
handlers, and gradients would be those of another function. The wrapper here remembers where the block stood
and goes on from there, with the mode on and `recompute=True` on every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import SessionError

if TYPE_CHECKING:
    from ._session import Session


def rerun_in(
    session: Session, call_next: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Subscriber of `_gradient_checkpointing_func(function, *inputs)`."""
    frames = session.local_frames()
    if frames is None or not frames.stack:
        return call_next(*args, **kwargs)
    function, *inputs = args
    remembered = frames.snapshot()
    entered = False

    def inner(*values: Any, **options: Any) -> Any:
        nonlocal entered
        if not entered:
            entered = True
            return function(*values, **options)
        if session.closed:
            raise SessionError(
                "backward() of a gradient-checkpointed model came after its session was closed, so the "
                "recomputed attention "
                "would differ from the edited one. Call backward() inside the `with` block."
            )
        with session.resumed(remembered.snapshot()):
            return function(*values, **options)

    return call_next(inner, *inputs, **kwargs)
