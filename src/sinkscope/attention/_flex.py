"""Backend "flex": incoming mass with FlexAttention, by swapping the roles of queries and keys.

A first call gives the log-sum-exp L_i of every query. A second one lets keys ask queries with scores
s_ij - L_i + log w_i; its log-sum-exp over i is the log of the mass of key j. Memory O(tokens) where it is
compiled (CUDA); on the CPU it is not compiled and builds the whole matrix.

Never picked by itself: its compiler is Triton, so it cannot stand in where Triton is missing (there the
row-block pass measures), and its speed has not been measured. It is there by name, as a second opinion on
GPUs that shares no kernel with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sinkscope.errors import UsageError

from ._operands import Operands, expand_kv, four_axes
from ._rowblock import Raw

MEASURES = frozenset({"mass", "lse"})

Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""score(s, row, head, query, key)"""


def refusal(ops: Operands) -> str | None:
    """Why FlexAttention cannot run this call; None if it can."""
    if ops.q.device.type not in ("cuda", "cpu"):
        return f"the tensors are on {ops.q.device}; it runs on CUDA devices and, uncompiled, on the CPU"
    if ops.q.dtype != ops.k.dtype:
        return f"q is {ops.q.dtype} and k is {ops.k.dtype}; it takes one dtype"
    if min(ops.q.numel(), ops.k.numel()) == 0:
        return "the call is empty"
    if ops.q.device.type == "cuda" and not _compiler():
        return "it is compiled by Triton, which is not here"
    return None


def run(ops: Operands, weights: Tensor, want: Collection[str]) -> Raw:
    """Measure one attention call; see `Backend` for the arguments.

    Raises:
        UsageError: Statistics that need more than log-sum-exps.
    """
    if not set(want) <= MEASURES:
        raise UsageError(
            f"Attention backend 'flex' was asked for {', '.join(sorted(set(want) - MEASURES))}; it measures "
            f"{', '.join(sorted(MEASURES))}. Leave `backend` out, and one that can is picked."
        )
    with torch.no_grad(), torch.autocast(ops.q.device.type, enabled=False):
        return _run(ops, weights, want)


def _run(ops: Operands, weights: Tensor, want: Collection[str]) -> Raw:
    heads = ops.q.shape[1]
    k = expand_kv(ops.k, heads)
    score = _score(ops)
    lse = _log_sums(ops.q, k, score, ops.factor)
    alive = lse > -torch.inf
    raw = Raw(alive=alive if ops.masks else None, lse=lse)
    if "mass" in want:
        # A query without keys asks for nothing: s - inf is -inf.
        taken = torch.where(alive, lse, torch.inf)
        groups = [_column(ops, k, score, taken, part) for part in weights.unbind(2)]
        raw.mass = torch.stack(groups, dim=2)
    return raw


def _column(ops: Operands, k: Tensor, score: Score, lse: Tensor, weights: Tensor) -> Tensor:
    """[row, head, key]: sum over queries of weight * softmax weight."""
    shift = (weights.to(lse.dtype).log() - lse).contiguous()

    def swapped(s: Tensor, row: Tensor, head: Tensor, key: Tensor, query: Tensor) -> Tensor:
        return score(s, row, head, query, key) + shift[row, head, query]

    return _log_sums(k, ops.q, swapped, ops.factor).exp()


def _score(ops: Operands) -> Score:
    masks = [four_axes(mask) for mask in ops.masks]
    count = ops.q.shape[2]
    places = torch.arange(count, device=ops.q.device) if ops.positions is None else ops.positions

    def score(s: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if ops.softcap is not None:
            s = ops.softcap * torch.tanh(s / ops.softcap)
        for mask in masks:
            at = (row, head, query, key)
            part = mask[tuple(i if size > 1 else i * 0 for i, size in zip(at, mask.shape, strict=True))]
            s = torch.where(part, s, -torch.inf) if mask.dtype == torch.bool else s + part
        return torch.where(key <= places[query], s, -torch.inf) if ops.is_causal else s

    return score


def _log_sums(asks: Tensor, asked: Tensor, score: Score, factor: float) -> Tensor:
    """Log-sum-exp of the scores of each of `asks`; natural log [row, head, token]."""
    nothing = asked.new_zeros(*asked.shape[:3], 16)
    flex, how = _kernel(asks.device.type), {"score_mod": score, "scale": factor}
    try:
        from torch.nn.attention.flex_attention import AuxRequest
    except ImportError:  # torch before 2.9
        return flex(asks, asked, nothing, return_lse=True, **how)[1]
    return flex(asks, asked, nothing, return_aux=AuxRequest(lse=True), **how)[1].lse


@cache
def _kernel(device: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Any = torch.compile(flex_attention) if device == "cuda" else flex_attention
    return kernel


@cache
def _compiler() -> bool:
    from torch.utils._triton import has_triton

    return bool(has_triton())
