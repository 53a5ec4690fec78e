"""Grouped heads that were packed into the query axis, put back.

When transformers decodes one token under a mask it hands the query heads that share a kv head to the kernel
as queries of one head: q is `[row, kv_head, group, dim]` instead of `[row, head, 1, dim]`. Handlers see heads
as heads; the model's own call goes out as it came in.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ._call import AttentionCall


def packed_groups(module: nn.Module, arguments: dict[str, Any]) -> int:
    """How many query heads each kv head of this call has packed into the query axis; 1 where none.

    Args:
        module: The attention module.
        arguments: The call, as `call_arguments` names it.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    heads = getattr(getattr(module, "config", None), "num_attention_heads", None)
    q, k = arguments["q"], arguments["k"]
    if not isinstance(groups, int) or groups < 2 or q.dim() != 4 or q.shape[1] * groups != heads:
        return 1
    return groups if q.shape[1:3] == (k.shape[1], groups) else 1


def unpack(arguments: dict[str, Any], groups: int) -> dict[str, Any]:
    """The arguments with one query per head."""
    mask = arguments["mask"]
    if mask is not None and mask.dim() == 4 and mask.shape[1] > 1:
        mask = _unfold(mask)
    return {**arguments, "q": _unfold(arguments["q"]), "mask": mask, "enable_gqa": True}


def _unfold(tensor: Tensor) -> Tensor:
    rows, kv_heads, groups, last = tensor.shape
    return tensor.reshape(rows, kv_heads * groups, 1, last)


def pack(call: AttentionCall, groups: int) -> AttentionCall | None:
    """The call as it came in; None where an edit gave every query head keys of its own."""
    rows, heads, _, dim = call.q.shape
    if call.k.shape[1] * groups != heads:
        return None
    mask = call.mask
    if mask is not None and mask.dim() == 4 and mask.shape[1] > 1:
        mask = mask.reshape(mask.shape[0], -1, groups, mask.shape[3])
    q = call.q.reshape(rows, heads // groups, groups, dim)
    return call.replace(q=q, mask=mask, enable_gqa=False)
