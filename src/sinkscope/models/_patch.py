"""Wrappers on single objects that several sessions can share and that always come off.

`wrap(obj, name, subscriber)` puts one wrapper on `obj` (never on its class) however many sessions subscribe;
the last one to leave restores the very same attribute. Sessions in different threads may leave in any order.
Where someone else has wrapped the attribute on top of ours in the meantime, theirs stays and ours passes
calls through. The compiler stance is process-global, so it is counted here too: naive save and restore by two
interleaved sessions would leave `force_eager` behind.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable
from typing import Any

import torch

Subscriber = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""`subscriber(call_next, args, kwargs)` calls `call_next(*args, **kwargs)` once and returns its result."""

_lock = threading.RLock()
_stance_users = 0
_stance: Any = None


class _Wrapper:
    """What stands in place of a wrapped attribute: calls the original through all subscribers."""

    def __init__(self, obj: Any, name: str) -> None:
        self.obj, self.name = obj, name
        self.own = name in vars(obj)
        self.original = getattr(obj, name)
        self.subscribers: list[Subscriber] = []
        functools.update_wrapper(self, self.original)
        # Pipelines inspect the signatures of scheduler methods to decide which arguments to pass.
        self.__signature__ = inspect.signature(self.original)
        self.sinkscope_wrapper = self
        _set(obj, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner = self.original
        for subscriber in tuple(self.subscribers):
            inner = _around(subscriber, inner)
        return inner(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copied scheduler must step itself, not the one it was copied from, and is not counted."""
        copied = memo.get(id(self.obj))
        function = getattr(self.original, "__func__", None)
        return self.original if copied is None or function is None else types.MethodType(function, copied)

    def remove(self, subscriber: Subscriber) -> None:
        """Take one subscriber off, and the wrapper with the last one."""
        with _lock:
            self.subscribers.remove(subscriber)
            if self.subscribers or vars(self.obj).get(self.name) is not self:
                return
            if self.own:
                _set(self.obj, self.name, self.original)
            else:
                object.__delattr__(self.obj, self.name)


def _set(obj: Any, name: str, value: Any) -> None:
    # Module.__setattr__ and config mixins look at what is assigned; the instance dictionary is all that is
    # meant here.
    object.__setattr__(obj, name, value)


def _around(subscriber: Subscriber, inner: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: subscriber(inner, args, kwargs)


def wrap(obj: Any, name: str, subscriber: Subscriber) -> Callable[[], None]:
    """Call `subscriber` around `obj.name`; the returned function undoes it."""
    with _lock:
        current = vars(obj).get(name)
        wrapper = getattr(current, "sinkscope_wrapper", None)
        if wrapper is None or wrapper.obj is not obj:
            wrapper = _Wrapper(obj, name)
        wrapper.subscribers.append(subscriber)
    return functools.partial(wrapper.remove, subscriber)


def force_eager() -> Callable[[], None]:
    """Switch `torch.compile` off for the process until the returned function is called (counted)."""
    global _stance_users, _stance
    with _lock:
        if _stance_users == 0:
            _stance = torch.compiler.set_stance("force_eager")
        _stance_users += 1
    return _release_stance


def _release_stance() -> None:
    global _stance_users, _stance
    with _lock:
        _stance_users -= 1
        if _stance_users == 0:
            _stance.__exit__(None, None, None)
            _stance = None
