"""Incoming mass under edits, for receipts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sinkscope.errors import UsageError

from ._backends import pick_backend
from ._edits import EditedCall, ResolvedEdit
from ._measure import query_totals
from ._operands import OVERFLOW, Operands, blame, not_finite
from ._queries import QuerySet, group_weights
from ._questions import ask_finite, deferring
from ._regions import Region, active_edits, check_edits, fold, regions
from ._rowblock import Block, Raw, rowblock


def mass_after(
    q: Tensor,
    k: Tensor,
    edits: Sequence[ResolvedEdit],
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    softcap: float | None = None,
    queries: Mapping[str, QuerySet] | None = None,
) -> dict[str, Tensor]:
    """Incoming mass of every key under the edited attention.

    Args:
        q: [row, head, query, dim].
        k: [row, kv_head, key, dim].
        edits: As for `apply_edits`; edits of values and outputs do not move mass.
        mask: The model's mask.
        scale: The model's scale.
        is_causal: The model's causal flag.
        softcap: The model's cap on its logits.
        queries: Query groups by name; None means {"all": None}.

    Returns:
        group -> float32 [row, head, key]; sums to 1 over keys; NaN where no query of the group sees any key.

    Raises:
        UsageError: Chosen sets, query scopes or groups that do not fit the call.
        NonFiniteError: NaN or infinity in q or k.
    """
    check_edits(edits, q, k)
    groups: Mapping[str, QuerySet] = {"all": None} if queries is None else queries
    if not groups:
        raise UsageError(
            "Got an empty mapping of query groups; expected at least one. Pass None for all queries."
        )
    ops = Operands(q, k, scale=scale)
    weights = group_weights(groups, rows=q.shape[0], count=q.shape[2], device=q.device).to(ops.compute_dtype)[
        :, None
    ]
    call = EditedCall(q, k, None, mask=mask, scale=scale, is_causal=is_causal, softcap=softcap)
    total = torch.zeros(q.shape[0], q.shape[1], len(groups), dtype=ops.compute_dtype, device=q.device)
    mass = torch.zeros(*total.shape, k.shape[2], dtype=ops.compute_dtype, device=q.device)
    for part in regions(active_edits(edits), q):
        part_mass, part_total = _region(call, part, weights)
        mass, total = mass + part_mass, total + part_total
    if deferring():
        ask_finite({OVERFLOW: mass}, not_finite)
    elif not bool(torch.isfinite(mass).all()):
        raise blame(ops)
    mean = (mass / total[..., None]).float()
    return {name: mean[:, :, index] for index, name in enumerate(groups)}


def _region(call: EditedCall, part: Region, weights: Tensor) -> tuple[Tensor, Tensor]:
    folded = fold(call, part.edits)
    if part.queries is not None:
        weights = weights * part.queries[:, None, None]
    raw = _measured(folded, weights)
    assert raw.mass is not None  # "mass" was asked for
    return raw.mass, query_totals(raw, weights, call.q.shape[1])


def _measured(folded: EditedCall, weights: Tensor) -> Raw:
    ops, want = folded.operands(), frozenset({"mass"})
    if not folded.weights:
        return pick_backend(None, ops)(ops, weights, want)

    # Softmax weights can be edited where they exist, block by block.
    def edit(p: Tensor, block: Block) -> Tensor:
        for change in folded.weights:
            p = change(p, block)
        return p

    return rowblock(ops, weights, want, edit=edit)
