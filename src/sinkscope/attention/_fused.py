"""Torch's fused attention together with the log-sum-exp it computes anyway.

`F.scaled_dot_product_attention` drops that number; the operators below it return it. With it a GPU needs the
column pass alone to measure a call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from . import _triton
from ._backends import pick_backend
from ._operands import Operands

HALF = (torch.float16, torch.bfloat16)


def on_triton(ops: Operands) -> bool:
    """Whether the kernels measure this call, and may do so from the log-sum-exp of another kernel.

    Not in float32: a fused kernel may use TF32 there.
    """
    return ops.q.dtype in HALF and not ops.masks and pick_backend(None, ops) is _triton.run


def fused_with_lse(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """Torch's own fused attention and its log-sum-exp.

    Returns:
        [row, head, query, dim] in the dtype of q, and float32 [row, head, query].
    """
    if q.device.type == "cpu":
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, scale=scale)
        return found[0], found[1]
    if q.shape[-1] == v.shape[-1] and q.shape[-1] % 8 == 0:
        found = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, scale=scale)
    else:
        found = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)
    return found[0], found[1][:, :, : q.shape[2]]


def model_kernel_with_lse(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None
) -> tuple[Tensor, Tensor] | None:
    """What `F.scaled_dot_product_attention(q, k, v, scale=scale)` gives, to the bit, and its log-sum-exp.

    None unless the kernels would use the log-sum-exp and torch would choose its flash kernel for this call:
    then the same operator is called with the same arguments.
    """
    if q.dtype not in HALF or not q.dtype == k.dtype == v.dtype or torch.compiler.is_compiling():
        return None
    if q.dim() != 4 or q.shape[:2] != k.shape[:2] or not q.shape[-1] == v.shape[-1] or q.shape[-1] % 8:
        return None
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    if learning or torch.is_autocast_enabled(q.device.type) or not on_triton(Operands(q, k, scale=scale)):
        return None
    if torch._fused_sdp_choice(q, k, v, scale=scale) != SDPBackend.FLASH_ATTENTION.value:
        return None
    return fused_with_lse(q, k, v, scale)
