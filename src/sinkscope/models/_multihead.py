"""`nn.MultiheadAttention`, made visible.

`F.multi_head_attention_forward` hands itself to an active function mode as a whole, and the mode is off while
it runs, so the attention call inside would never be seen. The clone below is torch's own function, byte for
byte, that skips this handing over.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F

_original: Any = F.multi_head_attention_forward
_clone: Any = types.FunctionType(
    _original.__code__,
    {**_original.__globals__, "has_torch_function": lambda _: False},
    _original.__name__,
    _original.__defaults__,
)
_clone.__kwdefaults__ = _original.__kwdefaults__
_signature = inspect.signature(_original)


def run_multihead(
    mode: Callable[[], AbstractContextManager[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run `F.multi_head_attention_forward` with `mode()` active inside.

    The weights a caller may have asked for come from torch's own explicit softmax, so they are those of the
    model without edits; the output is the one the handlers made.
    """
    bound = _signature.bind(*args, **kwargs)
    bound.apply_defaults()
    values = bound.arguments
    weights = _original(*args, **kwargs)[1] if values["need_weights"] else None
    values["need_weights"] = False
    with mode():
        output = _clone(**values)[0]
    return output, weights
