"""The tensors of one attention call, checked once.

Shapes: q [row, head, query, dim]; k, v [row, kv_head, key, dim]. `kv_head` divides `head` (grouped-query
attention). Masks are boolean (True = keep) or additive floats, broadcastable to [row, head, query, key];
several may be given and are applied one after the other, so their sum is never built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkscope.errors import NonFiniteError, UsageError

# A bias this far below the best key of its query leaves a weight of exactly zero in every dtype.
_MASKED_BIAS = -1000.0


@dataclass(frozen=True)
class Operands:
    """One attention call as numbers: what a measuring backend gets."""

    q: Tensor
    """[row, head, query, dim]"""
    k: Tensor
    """[row, kv_head, key, dim]"""
    v: Tensor | None = None
    """[row, kv_head, key, dim]"""
    masks: tuple[Tensor, ...] = ()
    """boolean or additive, each broadcastable to [row, head, query, key]"""
    scale: float | None = None
    """factor on q.k; None means 1 / sqrt(dim)"""
    is_causal: bool = False
    """top-left aligned: query i sees keys 0..i"""
    softcap: float | None = None
    """logits become softcap * tanh(logits / softcap) before masks; None leaves them as they are"""
    positions: Tensor | None = None
    """[query] index of each query in the model's own order; None means 0, 1, 2, ..."""

    def __post_init__(self) -> None:
        _check_shapes(self.q, self.k, self.v)
        for mask in self.masks:
            _check_mask(mask, self.shape)
        if self.softcap is not None and not self.softcap > 0:
            raise UsageError(f"Got softcap={self.softcap!r}; expected a number above 0, or None for no cap.")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(row, head, query, key)"""
        rows, heads, queries, _ = self.q.shape
        return rows, heads, queries, self.k.shape[2]

    @property
    def factor(self) -> float:
        """The number q.k is multiplied by."""
        return 1.0 / math.sqrt(self.q.shape[-1]) if self.scale is None else float(self.scale)

    @property
    def compute_dtype(self) -> torch.dtype:
        """float64 stays float64; everything else is computed in float32."""
        return torch.float64 if self.q.dtype == torch.float64 else torch.float32


def _check_shapes(q: Tensor, k: Tensor, v: Tensor | None) -> None:
    if q.dim() != 4 or k.dim() != 4 or (v is not None and v.dim() != 4):
        raise UsageError(
            f"Got q {tuple(q.shape)} and k {tuple(k.shape)}; expected q [row, head, query, dim] and k, v "
            "[row, kv_head, key, dim]. Add the missing axes (for one sample: q[None])."
        )
    if q.shape[0] != k.shape[0] or q.shape[-1] != k.shape[-1] or k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise UsageError(
            f"Got q {tuple(q.shape)} and k {tuple(k.shape)}; expected equal rows and dims and a kv_head "
            "count that divides the head count. Pass the tensors exactly as the attention call gets them."
        )
    if v is not None and v.shape[:3] != k.shape[:3]:
        raise UsageError(
            f"Got v {tuple(v.shape)} beside k {tuple(k.shape)}; expected the same rows, kv_heads and keys. "
            "Pass the k and v of one call."
        )


def _check_mask(mask: Tensor, shape: tuple[int, int, int, int]) -> None:
    sizes = (1,) * (4 - mask.dim()) + tuple(mask.shape)
    if mask.dim() > 4 or any(size not in (1, full) for size, full in zip(sizes, shape, strict=True)):
        raise UsageError(
            f"Got a mask of shape {tuple(mask.shape)}; expected one that broadcasts to "
            f"[row, head, query, key] = {list(shape)}. Use shape [row, 1, 1, key] for a mask over keys."
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise UsageError(
            f"Got a mask of dtype {mask.dtype}; expected bool (True = keep) or an additive float. "
            "Convert it with mask.bool()."
        )


def expand_kv(t: Tensor, heads: int) -> Tensor:
    """Repeat kv heads so that there is one per query head ([row, kv_head, ...] to [row, head, ...])."""
    group = heads // t.shape[1]
    return t if group == 1 else t.repeat_interleave(group, dim=1)


def four_axes(mask: Tensor) -> Tensor:
    """View a broadcastable mask with all four axes."""
    return mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))


def allowed_keys(mask: Tensor | None, shape: tuple[int, int, int, int]) -> Tensor | None:
    """Keys that at least one query may attend to under the model's own mask.

    Args:
        mask: Boolean or additive mask, broadcastable to [row, head, query, key], or None.
        shape: (row, head, query, key) of the call.

    Returns:
        Boolean [row, key], or None where no mask is given. Additive masks count a key as masked out when its
        bias lies 1000 or more below the best key of the same query, which leaves a weight of exactly zero.
    """
    if mask is None:
        return None
    full = four_axes(mask)
    if full.dtype != torch.bool:
        best = full.amax(-1, keepdim=True)
        full = (full > best + _MASKED_BIAS) | ((full == best) & torch.isfinite(best))
    seen = full.any(dim=1).any(dim=1)
    return seen.expand(shape[0], shape[3])


def blame(ops: Operands) -> NonFiniteError:
    """Build the error that names which operand is not finite."""
    found = []
    for name, tensor in (("q", ops.q), ("k", ops.k), ("v", ops.v)):
        if tensor is not None:
            bad = int((~torch.isfinite(tensor)).sum())
            found += [f"{bad} of {tensor.numel()} entries of {name}"] if bad else []
    return not_finite(", ".join(found) or OVERFLOW)


OVERFLOW = "the logits (q.k overflows although q and k are finite)"


def not_finite(what: str) -> NonFiniteError:
    """Build the error for what holds NaN or infinity."""
    return NonFiniteError(
        f"NaN or infinity in {what}; expected finite numbers. Run the model in bfloat16 or float32 "
        "instead of float16, or look for the layer that overflows first."
    )
