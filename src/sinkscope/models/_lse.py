"""The log-sum-exp of a model's own attention call, where its kernel computes it anyway.

A handler that would measure from it opens `wanting_lse` around the rest of the chain. Whoever issues the
model's call at its end leaves it there, together with the queries and keys it belongs to: another handler in
between may have changed them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sinkscope.attention import model_kernel_with_lse
from sinkscope.models._call import AttentionCall


class LogSumExp:
    """What the last call issued inside of a block left."""

    def __init__(self) -> None:
        self._found: tuple[Tensor, Tensor, Tensor] | None = None

    def of(self, call: AttentionCall) -> Tensor | None:
        """Float32 `[row, head, query]` if it belongs to this call as it is, else None."""
        if self._found is None or self._found[0] is not call.q or self._found[1] is not call.k:
            return None
        return self._found[2]

    def keep(self, call: AttentionCall, lse: Tensor) -> None:
        """Leave the log-sum-exp of a call."""
        self._found = call.q, call.k, lse


_WANTED: ContextVar[LogSumExp | None] = ContextVar("sinkscope_lse", default=None)


@contextmanager
def wanting_lse() -> Iterator[LogSumExp]:
    """Ask for the log-sum-exp of the call issued inside the block."""
    found = LogSumExp()
    token = _WANTED.set(found)
    try:
        yield found
    finally:
        _WANTED.reset(token)


def issued_with_lse(func: Any, call: AttentionCall) -> Tensor | None:
    """The model's call by the kernel torch would choose, keeping its log-sum-exp; None where it has to be
    issued the ordinary way."""
    wanted = _WANTED.get()
    plain = call.mask is None and not (call.is_causal or call.dropout_p or call.enable_gqa)
    if wanted is None or func is not F.scaled_dot_product_attention or not plain:
        return None
    found = model_kernel_with_lse(call.q, call.k, call.v, call.scale)
    if found is None:
        return None
    wanted.keep(call, found[1])
    return found[0]
