"""Selectors that controls need: no key at all, and random keys matched to what another selector chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkscope.attention import (
    Keys,
    Segment,
    SelectionContext,
    Selector,
    register_selector,
    selector_from_dict,
)
from sinkscope.errors import UsageError

MATCHED_BY = ("count", "segment")


@register_selector
@dataclass(frozen=True)
class NoKeys(Selector):
    """No key. `intervene` still sends the call through the masked kernel path, with a mask of zeros."""

    def choose(self, ctx: SelectionContext) -> Tensor:
        return torch.zeros(ctx.shape, dtype=torch.bool, device=ctx.device)


@register_selector
@dataclass(frozen=True)
class MatchedRandom(Selector):
    """As many random keys in every row and head as another selector chooses there, never the keys it chooses.

    Draws are keyed by unit, seed, site, branch and step.

    Raises:
        UsageError: on choosing, when too few other keys are left.
    """

    of: Selector
    """The selector to match."""
    seed: int = 0
    """Random seed of the draw."""
    by: str = "count"
    """`"count"`, or `"segment"` for as many keys in each segment."""

    def __post_init__(self) -> None:
        if isinstance(self.of, Mapping):
            object.__setattr__(self, "of", selector_from_dict(self.of))
        if self.by not in MATCHED_BY:
            raise UsageError(f"MatchedRandom got by={self.by!r}; expected one of {', '.join(MATCHED_BY)}.")

    def required_queries(self) -> tuple[str | None, ...]:
        return self.of.required_queries()

    def must_see(self, step: int) -> bool:
        return self.of.must_see(step)

    def choose(self, ctx: SelectionContext) -> Tensor:
        treated = self.of.choose(ctx)
        free = ctx.candidates()[:, None] & ~treated
        numbers = ctx.uniform(self.seed)
        if shares_heads(self.of):
            numbers = numbers[:, :1].expand_as(numbers)
        part = _segment_codes(ctx) if self.by == "segment" else torch.zeros_like(free[:, 0], dtype=torch.long)
        chosen = torch.zeros_like(treated)
        for code in torch.unique(part).tolist():
            here = (part == code)[:, None]
            chosen |= _draw(numbers, free & here, (treated & here).sum(-1, keepdim=True), ctx)
        return chosen


def _draw(numbers: Tensor, candidates: Tensor, counts: Tensor, ctx: SelectionContext) -> Tensor:
    """The `counts` candidates of smallest number in every row and head."""
    left = candidates.sum(-1, keepdim=True)
    short = counts - left
    if bool((short > 0).any()):
        place = int(short.argmax())
        raise UsageError(
            f"The control needs {int(counts.flatten()[place])} keys that the treatment leaves alone, but "
            f"only {int(left.flatten()[place])} are there to choose from at {ctx.random.site!r}. Use a "
            "smaller budget, or the 'count' control if this was the 'segment' control."
        )
    order = numbers.masked_fill(~candidates, 2.0).argsort(dim=-1, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return (rank < counts) & candidates


def _segment_codes(ctx: SelectionContext) -> Tensor:
    """Long `[row, key]`: equal for keys of the same segments.

    Only the widest segments count. Parts of them (padding, one encoder's text) may hold few keys besides the
    treated ones.
    """
    rows, _, keys = ctx.shape
    masks = {name: ctx.segment(name) for name in ctx.segments}
    codes = torch.zeros(rows, keys, dtype=torch.long, device=ctx.device)
    for bit, mask in enumerate(masks.values()):
        if not any(_inside(mask, other) for other in masks.values()):
            codes += mask.long() << bit
    return codes


def _inside(mask: Tensor, other: Tensor) -> bool:
    return bool((other | ~mask).all()) and not torch.equal(mask, other)


def shares_heads(select: Selector) -> bool:
    """Whether a selector chooses one set for all heads of a row by definition."""
    return getattr(select, "shared_keys", None) is not None or isinstance(select, (Keys, Segment))
