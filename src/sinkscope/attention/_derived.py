"""Numbers derived from incoming mass alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sinkscope.errors import UsageError


def top_mass_share(mass: Tensor, n: int = 5) -> Tensor:
    """Share of the incoming mass that the n heaviest keys hold.

    Args:
        mass: [row, head, key], sums to 1 over keys.
        n: How many keys, at least 1 and at most the number of keys.

    Returns:
        [row, head], between n / keys and 1.
    """
    keys = mass.shape[-1]
    if not 1 <= n <= keys:
        raise UsageError(f"Got n={n} for mass over {keys} keys; expected 1..{keys}.")
    return mass.topk(n, dim=-1).values.sum(-1)


def segment_mass(mass: Tensor, segments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Incoming mass per segment.

    Args:
        mass: [row, head, key].
        segments: name -> boolean [key] or [row, key].

    Returns:
        name -> [row, head]. Over segments that cover every key once, the shares add up to 1.
    """
    return {
        name: torch.where(segment_rows(name, segment, mass)[:, None], mass, 0.0).sum(-1)
        for name, segment in segments.items()
    }


def segment_rows(name: str, segment: Tensor, mass: Tensor) -> Tensor:
    """View a segment as [row, key] beside a mass of [row, head, key]."""
    rows, _, keys = mass.shape
    full = segment[None] if segment.dim() == 1 else segment
    if full.dtype != torch.bool or full.dim() != 2 or full.shape[0] not in (1, rows) or full.shape[1] != keys:
        raise UsageError(
            f"Segment {name!r} is {segment.dtype} of shape {tuple(segment.shape)}; expected bool [{keys}] or "
            f"[{rows}, {keys}]."
        )
    return full.to(mass.device).expand(rows, keys)
