"""Attention written out in float64 with the N x N matrix in memory: what every other path is compared with.

Everything here follows the formulas literally and is slow and large on purpose:
weights P = softmax(scale * q.k + mask), incoming mass m_j = mean over queries i of P_ij, entropy
H_i = -sum_j P_ij ln P_ij, and edits as in the paper's released code (score mask, logit scale, probability
rescale, value edits). A query without any key to attend to has weights 0 and is left out of means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._operands import Operands, expand_kv
from ._queries import QuerySet, query_mask

if TYPE_CHECKING:
    from ._edits import ResolvedEdit


def logits(ops: Operands) -> Tensor:
    """Masked logits, float64 [row, head, query, key]."""
    q, k = ops.q.double(), expand_kv(ops.k.double(), ops.q.shape[1])
    return _apply_masks(_capped(q @ k.transpose(-1, -2) * ops.factor, ops.softcap), ops)


def _capped(out: Tensor, softcap: float | None) -> Tensor:
    return out if softcap is None else softcap * torch.tanh(out / softcap)


def _apply_masks(out: Tensor, ops: Operands) -> Tensor:
    for mask in ops.masks:
        out = out.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else out + mask.double()
    if ops.is_causal:
        count, keys = out.shape[-2:]
        positions = torch.arange(count, device=out.device) if ops.positions is None else ops.positions
        hidden = torch.arange(keys, device=out.device) > positions[:, None]
        out = out.masked_fill(hidden, -torch.inf)
    return out


def softmax(x: Tensor) -> Tensor:
    """Softmax over keys; a query with no key gets weights 0 instead of NaN."""
    dead = (x == -torch.inf).all(-1, keepdim=True)
    return torch.softmax(x.masked_fill(dead, 0.0), -1).masked_fill(dead, 0.0)


def weights(
    q: Tensor, k: Tensor, mask: Tensor | None = None, scale: float | None = None, is_causal: bool = False
) -> Tensor:
    """Softmax weights, float64 [row, head, query, key]."""
    return softmax(logits(_operands(q, k, mask, scale, is_causal)))


def incoming_mass(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    queries: QuerySet = None,
    *,
    is_causal: bool = False,
) -> Tensor:
    """Mean softmax weight of each key over the chosen queries, float64 [row, head, key]."""
    return mean_mass(weights(q, k, mask, scale, is_causal), queries)


def mean_mass(p: Tensor, queries: QuerySet = None) -> Tensor:
    """Mean of given weights [row, head, query, key] over the chosen queries that attend to anything."""
    chosen = query_mask(queries, rows=p.shape[0], count=p.shape[2], device=p.device)
    w = (chosen[:, None] & (p.sum(-1) > 0)).double()
    return (p * w[..., None]).sum(2) / w.sum(-1)[..., None]


def lse(
    q: Tensor, k: Tensor, mask: Tensor | None = None, scale: float | None = None, is_causal: bool = False
) -> Tensor:
    """Natural log of the softmax normaliser, float64 [row, head, query]."""
    return logits(_operands(q, k, mask, scale, is_causal)).logsumexp(-1)


def output(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Attention output P V, float64 [row, head, query, dim]."""
    return weights(q, k, mask, scale, is_causal) @ expand_kv(v.double(), q.shape[1])


def edited_weights(
    q: Tensor,
    k: Tensor,
    edits: Sequence[ResolvedEdit],
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    softcap: float | None = None,
) -> Tensor:
    """Softmax weights under the built-in edits, written out; float64 [row, head, query, key].

    `ScaleLogit` scales inside the cap and shifts outside of it.
    """
    from ._actions import Mask, ScaleLogit, ScaleProbability

    edits = [edit for edit in edits if edit.action.side == "keys"]
    ops = _operands(q, k, mask, scale, is_causal)
    raw = q.double() @ expand_kv(k.double(), q.shape[1]).transpose(-1, -2) * ops.factor
    where = [_where(edit, raw) for edit in edits]
    shift = torch.zeros_like(raw)
    for edit, chosen in zip(edits, where, strict=True):
        if isinstance(edit.action, ScaleLogit):
            raw = torch.where(chosen, raw * edit.action.factor, raw)
            shift = torch.where(chosen, shift * edit.action.factor + edit.action.shift, shift)
    raw = _apply_masks(_capped(raw, softcap) + shift, ops)
    for edit, chosen in zip(edits, where, strict=True):
        if isinstance(edit.action, Mask):
            raw = raw.masked_fill(chosen, -torch.inf)
    p = softmax(raw)
    for edit, chosen in zip(edits, where, strict=True):
        if isinstance(edit.action, ScaleProbability):
            p = _rescale(p, chosen, edit.action.eta)
    return p


def _rescale(p: Tensor, chosen: Tensor, eta: float) -> Tensor:
    """p' = eta p on the chosen keys, the others times (1 - eta s) / (1 - s), then rows renormalised."""
    on, off = p * chosen, p * ~chosen
    s, rest = on.sum(-1, keepdim=True), off.sum(-1, keepdim=True)
    off = torch.where(rest > 0, off / rest * (1 - eta * s), off)
    new = eta * on + off
    total = new.sum(-1, keepdim=True)
    return torch.where(total > 0, new / total, new)


def edited_output(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edits: Sequence[ResolvedEdit],
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    softcap: float | None = None,
) -> Tensor:
    """Attention output under the built-in edits except noise; float64 [row, head, query, dim]."""
    from ._actions import ReplaceValue
    from ._outputs import ReplaceOutput

    p = edited_weights(q, k, edits, mask=mask, scale=scale, is_causal=is_causal, softcap=softcap)
    values = expand_kv(v.double(), q.shape[1])[:, :, None].expand(-1, -1, q.shape[2], -1, -1)
    for edit in edits:
        if isinstance(edit.action, ReplaceValue):
            goal = values.mean(-2, keepdim=True) if edit.action.with_ == "mean" else torch.zeros_like(values)
            moved = values + edit.action.amount * (goal - values)
            values = torch.where(_where(edit, p)[..., None], moved, values)
    out = (p[..., None] * values).sum(-2)
    for edit in edits:
        if isinstance(edit.action, ReplaceOutput):
            own = replace(_operands(q, k, mask, scale, is_causal), softcap=softcap)
            goal = _output_target(edit.action.with_, own, expand_kv(v.double(), q.shape[1]))
            moved = out + edit.action.amount * (goal - out)
            affected = query_mask(edit.queries, rows=q.shape[0], count=q.shape[2], device=q.device)
            out = torch.where((edit.chosen & affected[:, None])[..., None], moved, out)
    return out


def _output_target(name: str, ops: Operands, v: Tensor) -> Tensor:
    """[row, head, 1, dim]: what `ReplaceOutput` moves outputs towards."""
    x = logits(ops)
    if name == "zero":
        return torch.zeros_like(v[:, :, :1])
    if name == "mean_output":
        return mean_mass(softmax(x))[:, :, None] @ v
    rows, heads, count, keys = x.shape
    seen = torch.zeros(rows, heads, count, keys, dtype=torch.float64, device=v.device)
    seen = torch.isfinite(_apply_masks(seen, replace(ops, is_causal=False))).any(2).any(1).double()
    return ((seen[:, None, :, None] * v).sum(2) / seen.sum(-1)[:, None, None])[:, :, None]


def _where(edit: ResolvedEdit, like: Tensor) -> Tensor:
    """[row, head, query, key]: the cells an edit touches."""
    rows, _, count, _ = like.shape
    affected = query_mask(edit.queries, rows=rows, count=count, device=like.device)
    return (edit.chosen[:, :, None, :] & affected[:, None, :, None]).expand(like.shape)


def _operands(q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None, is_causal: bool) -> Operands:
    return Operands(q, k, masks=() if mask is None else (mask,), scale=scale, is_causal=is_causal)
