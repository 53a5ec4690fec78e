"""From the arguments of `F.scaled_dot_product_attention` to an `AttentionCall` and back.

Function modes run before autocast casts. Handlers therefore run with autocast off and see the tensors as the
model passed them; the model's own call, issued through `run`, is made under the autocast state it was found
in, and whatever a handler returns is cast to the dtype that call would have had.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SinkscopeError
from ._call import AttentionCall, Run
from ._lse import issued_with_lse
from ._packed import pack

SDPA: frozenset[Any] = frozenset(
    {
        F.scaled_dot_product_attention,
        torch.ops.aten.scaled_dot_product_attention,
        torch.ops.aten.scaled_dot_product_attention.default,
    }
)
_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


def call_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Name the arguments of an attention call as `AttentionCall` does."""
    given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    return {
        "q": given["query"],
        "k": given["key"],
        "v": given["value"],
        "mask": given.get("attn_mask"),
        "dropout_p": given.get("dropout_p", 0.0),
        "is_causal": given.get("is_causal", False),
        "scale": given.get("scale"),
        "enable_gqa": given.get("enable_gqa", False),
        "softcap": given.get("softcap"),
        "sinks": given.get("sinks", 0),
    }


def issue(
    func: Any, call: AttentionCall, chain: Callable[[AttentionCall, Run], Tensor], groups: int = 1
) -> Tensor:
    """Send a call through the handlers; `run` at the end of the chain calls `func`.

    Args:
        func: What the model called.
        call: The call, heads unpacked.
        chain: The handlers.
        groups: Query heads per kv head that the model had packed into the query axis, see `_packed`.
    """
    flat = call.q.dim() == 3
    if flat:
        call = _with_heads(call)
    device = call.q.device.type
    cast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if cast and call.q.dtype != torch.float64 else call.q.dtype

    def run(changed: AttentionCall) -> Tensor:
        restored = torch.autocast(device, dtype=torch.get_autocast_dtype(device)) if cast else nullcontext()
        with restored:
            # The kernel for three axes rounds differently from the one for four.
            if flat:
                return _native(func, _without_heads(changed)).unsqueeze(1)
            packed = pack(changed, groups) if groups > 1 else None
            if packed is None:
                return _native(func, changed)
            return _native(func, packed).reshape(*changed.q.shape[:3], -1)

    with torch.autocast(device, enabled=False) if cast else nullcontext():
        output = chain(call, run)
    expected = (*call.q.shape[:3], call.v.shape[3])
    if not isinstance(output, Tensor) or tuple(output.shape) != expected:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise SinkscopeError(
            f"A handler returned {got} at site {call.site.key}, expected a tensor of shape {expected}. "
            "Return run(call) or a tensor like it."
        )
    output = output.to(dtype)
    if groups > 1:
        return output.reshape(output.shape[0], -1, groups, output.shape[3])
    return output.squeeze(1) if flat else output


def _with_heads(call: AttentionCall) -> AttentionCall:
    mask = call.mask.unsqueeze(1) if call.mask is not None and call.mask.dim() == 3 else call.mask
    return call.replace(q=call.q.unsqueeze(1), k=call.k.unsqueeze(1), v=call.v.unsqueeze(1), mask=mask)


def _without_heads(call: AttentionCall) -> AttentionCall:
    mask = call.mask.squeeze(1) if call.mask is not None and call.mask.dim() == 4 else call.mask
    return call.replace(q=call.q.squeeze(1), k=call.k.squeeze(1), v=call.v.squeeze(1), mask=mask)


def _native(func: Any, call: AttentionCall) -> Tensor:
    shared = issued_with_lse(func, call)
    if shared is not None:
        return shared
    mask, is_causal = call.mask, call.is_causal
    if mask is not None and is_causal:
        mask, is_causal = fold_causal(mask, call.q.shape[2], call.k.shape[2]), False
    extra = {"enable_gqa": True} if call.enable_gqa else {}
    return func(
        call.q,
        call.k,
        call.v,
        attn_mask=mask,
        dropout_p=call.dropout_p,
        is_causal=is_causal,
        scale=call.scale,
        **extra,
    )


def fold_causal(mask: Tensor, queries: int, keys: int) -> Tensor:
    """Put the causal triangle, aligned to the top left, into a mask: torch takes one or the other."""
    keep = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril()
    return mask & keep if mask.dtype == torch.bool else mask.masked_fill(~keep, float("-inf"))
