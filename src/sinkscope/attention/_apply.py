"""`apply_edits`: the output of an attention call under edits.

Usually ONE call of the model's own kernel with a broadcast [row, head, 1, key] bias and/or edited keys and
values: exact for any removed mass, no cancellation, memory O(tokens). Edits of the softmax weights themselves
(`ScaleProbability`) go through the row-block pass, where the weights exist block by block in float32.

Guarantees: nothing chosen or identity only -> exactly one call with the original tensors (same bits);
queries, rows and heads that no edit reaches keep the bits of the original call (which then runs as well).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ._drop import can_drop, without_keys
from ._edits import EditedCall, ResolvedEdit
from ._operands import four_axes
from ._regions import Region, active_edits, check_edits, fold, regions
from ._rowblock import Block, rowblock

Run = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool, float | None], Tensor]
"""run(q, k, v, mask, is_causal, scale) -> output: issues the model's own attention kernel."""

MASK_BYTES = 64 * 2**20
"""A mask that differs between queries is built for as many queries at a time as fit this size."""


def apply_edits(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    edits: Sequence[ResolvedEdit],
    *,
    run: Run,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    softcap: float | None = None,
    drop: bool = False,
) -> Tensor:
    """Attention output with edits applied.

    Edits compose in the order of their actions' stages (q/k, keys, logits, normaliser, probabilities, values,
    output); within a stage in the order given.

    Args:
        q: [row, head, query, dim].
        k: [row, kv_head, key, dim].
        v: [row, kv_head, key, dim].
        edits: Edits with chosen keys. Their order matters within a stage only.
        run: Issues the model's own kernel: run(q, k, v, mask, is_causal, scale). It may be called with fewer
            queries, with kv heads repeated to the query heads, and with an additive mask.
        mask: The model's mask, boolean (True = keep) or additive.
        scale: The model's scale; None means 1 / sqrt(dim).
        is_causal: The model's causal flag.
        softcap: The model's cap on its logits, which `run` applies too.
        drop: Where a removal is the whole edit, every head loses `ResolvedEdit.count` keys and the model has
            no mask, call `run` without these keys (and for some heads at a time) instead of with a mask:
            kernels that take no mask are the faster ones on GPUs.

    Returns:
        [row, head, query, dim] in the dtype `run` returns.

    Raises:
        UsageError: Chosen sets or query scopes that do not fit the call.
    """
    check_edits(edits, q, k)
    active = active_edits(edits)
    if not active:
        return run(q, k, v, mask, is_causal, scale)
    call = EditedCall(q, k, v, mask=mask, scale=scale, is_causal=is_causal, softcap=softcap)
    call = replace(call, original=call)
    parts = [(part, _reach(part)) for part in regions(active, q)]
    if len(parts) == 1 and parts[0][1] is not None and _everywhere(parts[0][0], parts[0][1]):
        return _edited(call, parts[0][0], run, drop)
    out = run(q, k, v, mask, is_causal, scale)
    for part, reach in parts:
        if reach is not None:
            out = _patch(out, call, part, reach, run, drop)
    return out


def _reach(part: Region) -> Tensor | None:
    """Boolean [row, head] of what the region's edits reach; None where it has no edits."""
    if not part.edits:
        return None
    return torch.stack([edit.reach() for edit in part.edits]).any(0)


def _everywhere(part: Region, reach: Tensor) -> bool:
    known = [edit.covers for edit in part.edits]
    if "all" in known:
        return True
    # What reaches some cells only is patched in, which also holds where the parts make a whole.
    return "some" not in known and bool(reach.all())


def _patch(out: Tensor, call: EditedCall, part: Region, reach: Tensor, run: Run, drop: bool) -> Tensor:
    """Replace the region's cells of `out`; every other cell keeps its bits."""
    if part.queries is None or part.queries.shape[0] > 1:
        new = _edited(call, part, run, drop)
        cells = reach[:, :, None] if part.queries is None else reach[:, :, None] & part.queries[:, None]
        return torch.where(cells[..., None], new.to(out.dtype), out)
    positions = part.queries[0].nonzero().flatten()
    new = _edited(_take(call, positions), part, run, drop).to(out.dtype)
    new = torch.where(reach[:, :, None, None], new, out[:, :, positions])
    return out.index_copy(2, positions, new)


def _take(call: EditedCall, positions: Tensor) -> EditedCall:
    """The call for some of its queries; a mask that differs between queries is cut along."""
    mask = call.mask
    if mask is not None and four_axes(mask).shape[2] > 1:
        mask = four_axes(mask)[:, :, positions]
    old = call.positions
    return replace(
        call, q=call.q[:, :, positions], mask=mask, positions=positions if old is None else old[positions]
    )


def _edited(call: EditedCall, part: Region, run: Run, drop: bool) -> Tensor:
    dtype = call.q.dtype
    if drop and can_drop(call, part.edits):
        return without_keys(
            call, part.edits[0], lambda less: run(less.q, less.k, _values(less), None, False, less.scale)
        )
    call = fold(call, part.edits)
    out = _weighted(call) if call.weights else _joined(list(_issue(call, run)), dtype)
    for change in call.finish:
        out = change(out)
    return out


def _values(call: EditedCall) -> Tensor:
    assert call.v is not None  # an output is formed of values
    return call.v


def _joined(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    # Only a call widened to float32 comes back wider than it went in.
    return out.to(dtype) if dtype in (torch.float16, torch.bfloat16) else out


def _weighted(call: EditedCall) -> Tensor:
    """Output through the row-block pass, where softmax weights can be edited."""

    def edit(p: Tensor, block: Block) -> Tensor:
        for change in call.weights:
            p = change(p, block)
        return p

    ops = call.operands()
    none = torch.zeros(1, 1, 1, ops.shape[2], dtype=ops.compute_dtype, device=call.q.device)
    out = rowblock(ops, none, {"output"}, edit=edit).output
    assert out is not None  # "output" was asked for and values are there
    device = call.q.device.type
    # The kernel this stands in for would have been cast by autocast.
    return out.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else call.q.dtype)


def _issue(call: EditedCall, run: Run) -> Iterator[Tensor]:
    """Call the kernel once, or for some queries at a time where the full mask differs between queries."""
    assert call.v is not None
    causal = call.is_causal
    if call.bias is None and not (causal and call.positions is not None):
        yield run(call.q, call.k, call.v, call.mask, causal, call.scale)
        return
    call = _in_exact_dtype(call)
    assert call.v is not None
    count = call.q.shape[2]
    height = count
    if causal or (call.mask is not None and four_axes(call.mask).shape[2] > 1):
        rows, heads = call.q.shape[:2] if call.bias is not None else (1, 1)
        row_bytes = rows * heads * call.k.shape[2] * call.q.element_size()
        height = max(1, min(count, MASK_BYTES // max(1, row_bytes)))
    for start in range(0, count, height):
        span = torch.arange(start, min(count, start + height), device=call.q.device)
        part = call if height == count else _take(call, span)
        yield run(part.q, part.k, call.v, _additive(part), False, part.scale)


def _additive(call: EditedCall) -> Tensor:
    """Mask, bias and causality as one additive mask."""
    total = call.bias
    if call.mask is not None:
        mask = four_axes(call.mask)
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
        total = mask if total is None else mask + total
    if call.is_causal:
        count, keys = call.q.shape[2], call.k.shape[2]
        positions = torch.arange(count, device=call.q.device) if call.positions is None else call.positions
        hidden = torch.arange(keys, device=call.q.device) > positions[:, None]
        causal = torch.zeros(1, 1, count, keys, device=call.q.device).masked_fill_(hidden, -torch.inf)
        total = causal if total is None else total + causal
    assert total is not None
    wide = call.mask is not None and call.mask.is_floating_point()
    return total.to(call.mask.dtype if wide and call.mask is not None else call.q.dtype)


def _in_exact_dtype(call: EditedCall) -> EditedCall:
    """Widen a half-precision call whose bias would be rounded: kernels want the mask in the dtype of q."""
    bias, mask = call.bias, call.mask
    if bias is None or not call.shifted or call.q.dtype not in (torch.float16, torch.bfloat16):
        return call
    additive = mask is not None and mask.is_floating_point()
    exact = bool((bias.to(call.q.dtype).to(bias.dtype) == bias).all())
    if exact and not (additive and bool((torch.isfinite(bias) & (bias != 0)).any())):
        return call
    v = None if call.v is None else call.v.float()
    mask = mask.float() if additive and mask is not None else mask
    return replace(call, q=call.q.float(), k=call.k.float(), v=v, mask=mask)
