"""The additive split: attention over all keys but a few candidates, which are added afterwards.

One pass over the other keys gives their output, and on the way the mass of every key. A candidate can then
be added as it is, with another logit or another value, or not at all. All weights that are added are
positive, so nothing cancels, whatever share of the mass is removed (subtracting removed keys from a finished
output does). What is chosen has to lie among the candidates; in heads where it does not, the edited call runs
whole.

Candidates come from the call itself: keys that hold most mass among a sample of its queries, and those the
edits would choose if the sample were all. So outputs depend on no earlier call, and the mass they are finally
chosen by is exact and covers all keys.

Row-block pass (CPU, and what Triton does not run): the values of candidates are zero in the pass, and a
column of ones beside them gives the weight of the rest. Triton: a stock fused kernel runs over the other
keys, the column pass follows from its log-sum-exp, and `_merge` adds the candidates. No number is read there.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import _triton
from ._actions import Mask, ReplaceValue, ScaleLogit
from ._apply import Run, apply_edits
from ._backends import pick_backend
from ._drop import keep_index, less_keys, take_keys
from ._edits import EditedCall, ResolvedEdit
from ._fused import fused_with_lse, on_triton
from ._measure import Measurement, check_inputs, reduced
from ._operands import Operands, expand_kv
from ._queries import QuerySet, group_weights
from ._regions import active_edits, check_edits, fold
from ._rowblock import Raw, rowblock

SAMPLED = 128
"""Queries of the sample, evenly spaced."""
FEWEST = 32
"""Candidates per head, at least."""
MOST = 128
SHARE = 4
"""A call has at least this many times as many keys as candidates, else nothing is won."""
_LOST = 1e-30
"""A rest of less weight may have lost terms to underflow."""
_HEADS = 4
"""Heads whose values are copied at a time."""
_MERGED_BYTES = 4 * 2**20
SPLIT_ACTIONS = (Mask, ScaleLogit, ReplaceValue)
"""Exactly these: they change logits and values of the chosen keys and nothing else."""


@dataclass(frozen=True)
class Split:
    """An attention call in two parts."""

    candidates: Tensor
    """[row, head, candidate] positions of keys, ascending"""
    rest: Tensor
    """[row, head, query, dim] output of attention over all other keys; float32, or the dtype of a kernel"""
    rest_lse: Tensor
    """float32 [row, head, query] natural log-sum-exp of the logits of all other keys"""
    weak: Tensor | None
    """boolean [row, head]: the rest may have underflowed there; None where it cannot"""
    measurement: Measurement
    """mass of all keys, per query group"""


def candidate_count(budget: int, keys: int) -> int | None:
    """How many candidates per head a call with edits of `budget` keys gets; None if it is too small."""
    count = max(FEWEST, -(-(budget + 16) // 16) * 16)
    return count if count <= MOST and SHARE * count <= keys else None


def can_split(call: EditedCall) -> str | None:
    """Why a call cannot be split; None if it can."""
    if call.mask is not None or call.is_causal or call.softcap is not None:
        return "the call has a mask or capped logits"
    if call.v is None or call.q.dtype == torch.float64:
        return "the call is float64 or has no values"
    if torch.is_grad_enabled() and any(t.requires_grad for t in (call.q, call.k, call.v)):
        return "gradients are asked for"
    return None


def can_be_merged(edit: ResolvedEdit) -> bool:
    """Whether an edit changes chosen keys and values of all queries, and reaches every row and head."""
    return type(edit.action) in SPLIT_ACTIONS and edit.queries is None and edit.covers == "all"


def sampled_mass(q: Tensor, k: Tensor, queries: Tensor | None, *, scale: float | None = None) -> Tensor:
    """Mean softmax weight of every key over a sample of the queries: float32 [row, head, key].

    Args:
        q: [row, head, query, dim].
        k: [row, kv_head, key, dim].
        queries: Boolean [query] or [row, query]: those to sample from; None = all.
        scale: Factor on q.k; None means 1 / sqrt(dim).
    """
    count = q.shape[2]
    inside = (
        torch.ones(1, count, device=q.device) if queries is None else queries.to(q.device).view(-1, count)
    )
    seen = inside.float().cumsum(-1)
    steps = torch.linspace(0.0, 1.0, SAMPLED, device=q.device)
    wanted = 1.0 + ((seen[:, -1:] - 1.0).clamp_min(0.0) * steps).round()
    places = torch.searchsorted(seen, wanted).clamp_max(count - 1).expand(q.shape[0], -1)
    some = q.gather(2, places[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
    ops = Operands(some, k, scale=scale)
    weights = torch.full((1, 1, 1, SAMPLED), 1.0 / SAMPLED, dtype=ops.compute_dtype, device=q.device)
    with torch.no_grad():
        raw = pick_backend(None, ops)(ops, weights, {"mass"})
    assert raw.mass is not None  # it was asked for
    return raw.mass[:, :, 0].float()


def pick_candidates(sampled: Sequence[Tensor], guesses: Sequence[Tensor], count: int) -> Tensor:
    """Positions of candidates: what was guessed, then the largest sampled mass.

    Args:
        sampled: Sampled mass, each [row, head, key].
        guesses: What edits would choose by it, boolean, each [row, head, key].
        count: Candidates per head; at least as many as any head's guesses.

    Returns:
        Whole numbers [row, head, count], ascending.
    """
    order = torch.stack([mass / mass.amax(-1, keepdim=True).clamp_min(1e-30) for mass in sampled]).amax(0)
    for guess in guesses:
        order = order + 2.0 * guess
    return order.topk(count, dim=-1).indices.sort(dim=-1).values


def split(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    candidates: Tensor,
    *,
    scale: float | None = None,
    queries: Mapping[str, QuerySet] | None = None,
) -> Split:
    """Measure a call and form the output of all keys but the candidates, in one pass.

    Args:
        q: [row, head, query, dim].
        k: [row, kv_head, key, dim].
        v: [row, kv_head, key, dim].
        candidates: [row, head, candidate] positions of keys, ascending.
        scale: Factor on q.k; None means 1 / sqrt(dim).
        queries: Query groups by name; None means {"all": None}.

    Raises:
        NonFiniteError: NaN or infinity in q, k or v.
    """
    groups: Mapping[str, QuerySet] = {"all": None} if queries is None else queries
    ops = Operands(q, k, v, scale=scale)
    weights = group_weights(groups, rows=q.shape[0], count=q.shape[2], device=q.device)[:, None]
    weights = weights.to(ops.compute_dtype)
    check_inputs(ops)
    way = _by_kernels if on_triton(ops) else _by_blocks
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        return way(ops, candidates, list(groups), weights)


def _by_blocks(ops: Operands, candidates: Tensor, names: list[str], weights: Tensor) -> Split:
    """Row-block pass in which the values of candidates are zero; two columns beside them add up the weights
    of the rest and of the candidates. A row and some heads at a time: values are copied, and the numbers of a
    row must not depend on its batch."""
    assert ops.v is not None  # `can_split` has looked
    rows, heads, count, keys = ops.shape
    k, v = expand_kv(ops.k, heads), expand_kv(ops.v, heads)
    rest = torch.empty(rows, count, heads, v.shape[-1], device=v.device).transpose(1, 2)
    lse = torch.empty(rows, heads, count, device=v.device)
    mass = torch.empty(rows, heads, weights.shape[2], keys, device=v.device)
    weak = torch.empty(rows, heads, dtype=torch.bool, device=v.device)
    for row, start in itertools.product(range(rows), range(0, heads, _HEADS)):
        some = slice(row, row + 1), slice(start, start + _HEADS)
        near = candidates[some]
        few = torch.zeros(*near.shape[:2], keys, 1, device=v.device).scatter_(2, near[..., None], 1.0)
        wide = torch.cat([v[some].float() * (1.0 - few), 1.0 - few, few], dim=-1)
        part = weights[some[0]] if weights.shape[0] > 1 else weights
        raw = rowblock(Operands(ops.q[some], k[some], wide, scale=ops.scale), part, {"mass", "output"})
        assert raw.output is not None and raw.mass is not None  # both were asked for
        others, among = (raw.output[..., column].clamp_min(_LOST) for column in (-2, -1))
        rest[some] = raw.output[..., :-2] / others[..., None]
        odds = (others / among).log_()
        keys_near = take_keys(k[some], near)[0].float().transpose(-1, -2)
        for head in range(near.shape[1]):
            logits = ops.q[row, start + head].float() @ keys_near[head]
            odds[0, head] += (logits * ops.factor).logsumexp(-1)
        lse[some], mass[some] = odds, raw.mass
        weak[some] = (others <= _LOST).any(-1)
    found = reduced(Raw(mass=mass), ops, names, weights, frozenset({"mass"}))
    return Split(candidates, rest, lse, weak, found)


def _by_kernels(ops: Operands, candidates: Tensor, names: list[str], weights: Tensor) -> Split:
    assert ops.v is not None  # `can_split` has looked
    rows, heads, count, keys = ops.shape
    chosen = torch.zeros(rows, heads, keys, dtype=torch.bool, device=ops.q.device)
    kept = keep_index(chosen.scatter_(-1, candidates, True), candidates.shape[-1])
    rest = ops.q.new_empty(rows, heads, count, ops.v.shape[-1])
    lse = torch.empty(rows, heads, count, device=ops.q.device)
    for some, k, v in less_keys(ops.k, ops.v, kept):
        rest[:, some], lse[:, some] = fused_with_lse(ops.q[:, some], k, v, ops.factor)
    few = Operands(ops.q, take_keys(expand_kv(ops.k, heads), candidates), scale=ops.scale)
    among = _triton.run(few, weights, {"lse"}).lse
    assert among is not None  # it was asked for
    raw = _triton.columns(ops, torch.logaddexp(lse, among), weights, {"mass"})
    found = reduced(raw, ops, names, weights, frozenset({"mass"}))
    return Split(candidates, rest, lse, None, found)


def merge(
    parts: Split,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edits: Sequence[ResolvedEdit],
    *,
    run: Run,
    scale: float | None = None,
    drop: bool = False,
) -> Tensor:
    """Attention output with edits applied: the rest, and the candidates as the edits have changed them.

    Args:
        parts: The call, split.
        q: [row, head, query, dim], as it was split.
        k: [row, kv_head, key, dim].
        v: [row, kv_head, key, dim].
        edits: Edits that `can_be_merged` accepts; with none that acts, `run` is called as it would be.
        run: Issues the model's own kernel, for heads whose chosen keys are not all among the candidates.
        scale: The model's scale.
        drop: As for `apply_edits`.

    Returns:
        [row, head, query, dim] in the dtype of q. On the Triton path the memory of `parts.rest`.
    """
    check_edits(edits, q, k)
    active = active_edits(edits)
    if not active:
        return run(q, k, v, None, False, scale)
    call = EditedCall(q, k, v, scale=scale)
    folded = fold(call, active)
    assert folded.v is not None
    heads = q.shape[1]
    at = parts.candidates
    k_few, v_few = (take_keys(expand_kv(t, heads), at) for t in (folded.k, folded.v))
    bias = (
        torch.zeros(at.shape, device=q.device) if folded.bias is None else folded.bias[:, :, 0].gather(-1, at)
    )
    among = torch.zeros_like(active[0].chosen).scatter_(-1, at, True)
    hit = ~torch.stack([(edit.chosen & ~among).any(-1) for edit in active]).any(0)
    if parts.weak is None:
        few = Operands(q, k_few, v_few, scale=scale)
        whole = Operands(
            q, folded.k, folded.v, masks=() if folded.bias is None else (folded.bias,), scale=scale
        )
        return _triton.merge(few, whole, bias, parts.rest, parts.rest_lse, hit)
    hit &= ~parts.weak
    out = _added(parts, q, k_few, v_few, bias, Operands(q, k, scale=scale).factor)
    return out if bool(hit.all()) else _mended(out, hit, call, active, run, drop)


def _added(parts: Split, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, factor: float) -> Tensor:
    """Add the candidates to the rest, in its memory and some queries at a time."""
    rows, heads, count, _ = q.shape
    height = max(16, _MERGED_BYTES // (4 * heads * k.shape[2]))
    for row, start in itertools.product(range(rows), range(0, count, height)):
        some = slice(start, start + height)
        logits = (q[row, :, some].float() @ k[row].float().transpose(-1, -2)).mul_(factor)
        logits.add_(bias[row, :, None])
        lse = parts.rest_lse[row, :, some, None]
        best = torch.maximum(lse, logits.amax(-1, keepdim=True))
        rest, weights = (lse - best).exp_(), logits.sub_(best).exp_()
        whole = rest + weights.sum(-1, keepdim=True)
        parts.rest[row, :, some].mul_(rest).add_(weights @ v[row].float()).div_(whole)
    return parts.rest.to(q.dtype)


def _mended(
    out: Tensor, hit: Tensor, call: EditedCall, edits: Sequence[ResolvedEdit], run: Run, drop: bool
) -> Tensor:
    """Run the edited call whole for the heads in which a chosen key is no candidate."""
    assert call.v is not None
    heads = (~hit).any(0).nonzero().flatten()
    k, v = (expand_kv(t, call.q.shape[1])[:, heads] for t in (call.k, call.v))
    some = [replace(edit, chosen=edit.chosen[:, heads], covers=None) for edit in edits]
    new = apply_edits(call.q[:, heads], k, v, some, run=run, scale=call.scale, drop=drop)
    kept = hit[:, heads, None, None]
    return out.index_copy(1, heads, torch.where(kept, out[:, heads], new.to(out.dtype)))
