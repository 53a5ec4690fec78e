"""Query sets: whose attention is counted or changed."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from sinkscope.errors import UsageError

from ._questions import ask

type_names = "None, a slice, an index tensor [n], or a boolean tensor [query] or [row, query]"

QuerySet = None | slice | Tensor
"""None = all queries; a slice; an index tensor [n]; a boolean tensor [query] or [row, query]."""


def query_mask(
    queries: QuerySet, *, rows: int, count: int, device: torch.device, name: str = "queries"
) -> Tensor:
    """Resolve a query set to a boolean tensor [row or 1, query].

    Raises:
        UsageError: The set is empty, out of range or of a shape that fits no call.
    """
    mask = torch.zeros(1, count, dtype=torch.bool, device=device)
    if queries is None or isinstance(queries, slice):
        mask[:, queries if isinstance(queries, slice) else slice(None)] = True
    elif not isinstance(queries, Tensor):
        raise UsageError(f"Query group {name!r} is a {type(queries).__name__}; expected {type_names}.")
    elif queries.dtype == torch.bool:
        mask = _boolean(queries, rows, count, name).to(device, non_blocking=True)
    else:
        mask[:, _indices(queries, count, name).to(device)] = True
    ask(mask.any(), functools.partial(_check_any, name, count))
    return mask


def _check_any(name: str, count: int, found: list[float]) -> None:
    if not found[0]:
        raise UsageError(
            f"Query group {name!r} selects none of the {count} queries; expected at least one. "
            "Check the slice or mask, or leave the group out."
        )


def _boolean(queries: Tensor, rows: int, count: int, name: str) -> Tensor:
    mask = queries[None] if queries.dim() == 1 else queries
    if mask.dim() != 2 or mask.shape[1] != count or mask.shape[0] not in (1, rows):
        raise UsageError(
            f"Query group {name!r} is a boolean mask of shape {tuple(queries.shape)}; expected [{count}] or "
            f"[{rows}, {count}]."
        )
    return mask


def _indices(queries: Tensor, count: int, name: str) -> Tensor:
    if queries.is_floating_point() or queries.dim() != 1:
        raise UsageError(
            f"Query group {name!r} has dtype {queries.dtype}, {queries.dim()} axes; expected {type_names}."
        )
    if queries.numel() and (int(queries.min()) < 0 or int(queries.max()) >= count):
        raise UsageError(
            f"Query group {name!r} names queries {int(queries.min())}..{int(queries.max())}, but there "
            f"are {count} (0..{count - 1})."
        )
    return queries


def group_weights(groups: Mapping[str, QuerySet], *, rows: int, count: int, device: torch.device) -> Tensor:
    """Stack query groups into 0/1 weights [row or 1, group, query]."""
    masks = [query_mask(q, rows=rows, count=count, device=device, name=n) for n, q in groups.items()]
    height = max(mask.shape[0] for mask in masks)
    return torch.stack([mask.expand(height, count) for mask in masks], dim=1)
