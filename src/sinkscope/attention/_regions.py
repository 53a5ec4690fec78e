"""Which queries get which edits.

Queries are grouped by the set of edits that reach them; each group is one region, so that queries outside
every edit are never recomputed and keep their bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sinkscope.errors import UsageError

from ._edits import EditedCall, ResolvedEdit
from ._queries import query_mask


class Region(NamedTuple):
    """Queries that share the same edits."""

    edits: tuple[ResolvedEdit, ...]
    """in order of composition; empty for queries no edit reaches"""
    queries: Tensor | None
    """boolean [row or 1, query]; None = all"""


def active_edits(edits: Sequence[ResolvedEdit]) -> list[ResolvedEdit]:
    """Edits that change anything or are forced onto the edited path, in order of composition."""
    return sorted(filter(_acts, edits), key=lambda edit: edit.action.rank)


def _acts(edit: ResolvedEdit) -> bool:
    if edit.force_path or edit.action.is_identity:
        return edit.force_path
    return edit.covers is not None or bool(edit.chosen.any())


def regions(edits: Sequence[ResolvedEdit], q: Tensor) -> list[Region]:
    """Split the queries of q [row, head, query, dim] by the edits that reach them."""
    if all(edit.queries is None for edit in edits):
        return [Region(tuple(edits), None)]
    if len(edits) > 62:
        raise UsageError(
            f"Got {len(edits)} edits with query scopes on one call; expected at most 62. Merge some."
        )
    rows, _, count, _ = q.shape
    code = torch.zeros(1, count, dtype=torch.long, device=q.device)
    for bit, edit in enumerate(edits):
        scope = query_mask(edit.queries, rows=rows, count=count, device=q.device, name="affected queries")
        code = code + scope.long() * (1 << bit)
    found = []
    for value in torch.unique(code).tolist():
        inside = code == value
        part = tuple(edit for bit, edit in enumerate(edits) if value >> bit & 1)
        found.append(Region(part, None if bool(inside.all()) else inside))
    return found


def check_edits(edits: Sequence[ResolvedEdit], q: Tensor, k: Tensor) -> None:
    """Refuse chosen sets whose shape does not fit the call."""
    for edit in edits:
        side = edit.action.side
        want = (q.shape[0], q.shape[1], q.shape[2] if side == "queries" else k.shape[2])
        if tuple(edit.chosen.shape) != want or edit.chosen.dtype != torch.bool:
            raise UsageError(
                f"Got chosen {side} {edit.chosen.dtype} {tuple(edit.chosen.shape)}; expected bool "
                f"[row, head, {'query' if side == 'queries' else 'key'}] = {list(want)}. Choose {side} from "
                "the same call that is edited."
            )


def fold(call: EditedCall, edits: Sequence[ResolvedEdit]) -> EditedCall:
    """Apply the edits of a region one after the other."""
    for edit in edits:
        call = edit.action.apply(call, edit.chosen, edit.random)
    return call
