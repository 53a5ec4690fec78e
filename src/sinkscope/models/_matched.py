"""Selectors that controls need: no key at all, and random keys matched to what another selector chose.

Each takes the keys in dependence of what the treatment would take in the same call, and never one of those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sinkscope.attention import (
    MASS_TOLERANCE,
    BottomMass,
    Frozen,
    Keys,
    NextMass,
    RandomKeys,
    Segment,
    SelectionContext,
    Selector,
    TopMass,
    check_queries,
    largest,
    match_mass,
    open_queries,
    register_selector,
    selector_from_dict,
    stand_ins,
)
from sinkscope.errors import UsageError

MATCHED_BY = ("count", "segment")
ATTEMPTS = 4
"""Random orders that `MatchedMass` tries in a head where the ones before missed the mass."""


@register_selector
@dataclass(frozen=True)
class NoKeys(Selector):
    """No key. `intervene` still sends the call through the masked kernel path, with a mask of zeros."""

    def choose(self, ctx: SelectionContext) -> Tensor:
        return torch.zeros(ctx.shape, dtype=torch.bool, device=ctx.device)


@dataclass(frozen=True)
class _Matched(Selector):
    of: Selector
    """The selector to match."""
    seed: int = 0
    """Random seed of the draw."""

    def __post_init__(self) -> None:
        if isinstance(self.of, Mapping):
            object.__setattr__(self, "of", selector_from_dict(self.of))

    def required_queries(self) -> tuple[str | None, ...]:
        return self.of.required_queries()

    def must_see(self, step: int) -> bool:
        return self.of.must_see(step)


@dataclass(frozen=True)
class _Counted(_Matched):
    by: str = "count"
    """`"count"`, or `"segment"` for as many keys in each segment."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in MATCHED_BY:
            name = type(self).__name__
            raise UsageError(f"{name} got by={self.by!r}; expected one of {', '.join(MATCHED_BY)}.")

    def parts(self, ctx: SelectionContext) -> Tensor:
        """Long `[row, key]`: keys to be matched among themselves have equal numbers."""
        rows, _, keys = ctx.shape
        if self.by == "segment":
            return segment_codes(ctx)
        return torch.zeros(rows, keys, dtype=torch.long, device=ctx.device)


@register_selector
@dataclass(frozen=True)
class MatchedRandom(_Counted):
    """As many random keys in every row and head as another selector chooses there, never the keys it chooses.

    Draws are keyed by unit, seed, site, branch and step.

    Raises:
        UsageError: on choosing, when too few other keys are left.
    """

    def choose(self, ctx: SelectionContext) -> Tensor:
        treated = self.of.choose(ctx)
        free = ctx.candidates()[:, None] & ~treated
        numbers = _draws(self.of, ctx.uniform(self.seed))
        part = self.parts(ctx)
        chosen = torch.zeros_like(treated)
        for code in torch.unique(part).tolist():
            here = (part == code)[:, None]
            chosen |= _draw(numbers, free & here, (treated & here).sum(-1, keepdim=True), ctx)
        return chosen


@register_selector
@dataclass(frozen=True)
class StandIns(_Counted):
    """For every key another selector chooses a random other one, the same one in all steps.

    So the set changes from step to step when the other selector's set does, and as much. Who stands in for
    whom is keyed by unit, seed, site and branch; see `sinkscope.attention.stand_ins`.

    Raises:
        UsageError: on choosing, when too few other keys are left.
    """

    def choose(self, ctx: SelectionContext) -> Tensor:
        treated = self.of.choose(ctx)
        free = ctx.candidates()[:, None] & ~treated
        part = self.parts(ctx)
        for code in torch.unique(part).tolist():
            here = (part == code)[:, None]
            _check_enough((treated & here).sum(-1), (free & here).sum(-1), ctx)
        numbers = _draws(self.of, ctx.uniform(self.seed, fixed=True))
        return stand_ins(treated, free, numbers, part[:, None])


@register_selector
@dataclass(frozen=True)
class MatchedMass(_Matched):
    """Random keys that hold as much mass in every row and head as those another selector chooses there.

    Within 1 %, or as close as the search comes (`sinkscope.attention.match_mass`); the number of keys
    differs. Segment by segment where the other keys of the treated segments hold enough, else from all
    segments together. Every head has a set of its own, and at least one key that the other selector leaves
    alone stays. Draws are keyed by unit, seed, site, branch and step.

    Raises:
        UsageError: on choosing, when fewer than two other keys are left.
    """

    queries: str | None = None
    """Query group whose attention is counted; None for image queries where the model has them, else all."""

    def required_queries(self) -> tuple[str | None, ...]:
        return tuple(dict.fromkeys((*self.of.required_queries(), self.queries)))

    def choose(self, ctx: SelectionContext) -> Tensor:
        treated = self.of.choose(ctx)
        free = ctx.candidates()[:, None] & ~treated
        _check_enough(2 * treated.any(-1).long(), free.sum(-1), ctx)
        mass = ctx.mass(self.queries).double()
        found = torch.zeros_like(treated)
        missed = torch.zeros_like(treated[..., 0])
        part = segment_codes(ctx)
        for code in torch.unique(part).tolist():
            here = (part == code)[:, None]
            keys, gap = self._match(mass, free & here, treated & here, ctx)
            found, missed = found | keys, missed | gap
        everywhere, _ = self._match(mass, free, treated & missed[..., None], ctx)
        return torch.where(missed[..., None], everywhere, found)

    def _match(
        self, mass: Tensor, free: Tensor, treated: Tensor, ctx: SelectionContext
    ) -> tuple[Tensor, Tensor]:
        """The keys, and bool `[row, head]`: where they miss the mass of the treated ones by more than 1 %."""
        some = treated.any(-1)
        target = torch.where(treated, mass, 0.0).sum(-1)
        if not bool(some.any()):
            return torch.zeros_like(treated), some
        found = match_mass(mass, free & some[..., None], target, self._orders(ctx)).to(treated.device)
        gap = (torch.where(found, mass, 0.0).sum(-1) - target).abs()
        return found, some & (gap > MASS_TOLERANCE * target)

    def _orders(self, ctx: SelectionContext) -> Iterator[Tensor]:
        yield ctx.uniform(self.seed)
        # The stream starts with the numbers of the first attempt, which is mostly the only one.
        yield from ctx.random.uniform(self.seed, (ATTEMPTS, *ctx.shape[1:])).unbind(1)[1:]


@register_selector
@dataclass(frozen=True)
class MatchedQueries(Selector):
    """As many queries in every row and head as another selector chooses keys there.

    Those whose attention is most concentrated, as in `TopConcentration`.

    Raises:
        UsageError: on choosing, when there are fewer queries.
    """

    of: Selector
    """The selector to match."""
    queries: str | None = None
    """Query group to choose from; None for image queries where the model has them, else all."""

    def __post_init__(self) -> None:
        if isinstance(self.of, Mapping):
            object.__setattr__(self, "of", selector_from_dict(self.of))

    @property
    def side(self) -> str:
        return "queries"

    def required_queries(self) -> tuple[str | None, ...]:
        return self.of.required_queries()

    def must_see(self, step: int) -> bool:
        return self.of.must_see(step)

    def choose(self, ctx: SelectionContext) -> Tensor:
        counts = self.of.choose(ctx).sum(-1, keepdim=True)
        inside = open_queries(ctx, self.queries)
        check_queries("The 'query' control", int(counts.max()), inside, ctx)
        return largest(ctx.concentration(), inside[:, None].expand(ctx.query_shape), counts)


def _draws(of: Selector, numbers: Tensor) -> Tensor:
    """One draw for all heads where the matched set is one for all heads."""
    return numbers[:, :1].expand_as(numbers) if shares_heads(of) else numbers


def _check_enough(needed: Tensor, left: Tensor, ctx: SelectionContext) -> None:
    short = needed - left
    if bool((short > 0).any()):
        place = int(short.argmax())
        raise UsageError(
            f"The control needs {int(needed.flatten()[place])} keys that the treatment leaves alone, but "
            f"only {int(left.flatten()[place])} are there to choose from at {ctx.random.site!r}. Use a "
            "smaller budget, or the 'count' control if this was the 'segment' or 'persistence' control."
        )


def _draw(numbers: Tensor, candidates: Tensor, counts: Tensor, ctx: SelectionContext) -> Tensor:
    """The `counts` candidates of smallest number in every row and head."""
    _check_enough(counts, candidates.sum(-1, keepdim=True), ctx)
    order = numbers.masked_fill(~candidates, 2.0).argsort(dim=-1, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return (rank < counts) & candidates


def segment_codes(ctx: SelectionContext) -> Tensor:
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


def treatment(select: Selector) -> Selector | None:
    """The selector whose control `select` is, where it can be told from `select` itself."""
    if isinstance(select, Frozen):
        inner = treatment(select.select)
        return None if inner is None else replace(select, select=inner)
    if isinstance(select, (_Matched, MatchedQueries)):
        return select.of
    if isinstance(select, RandomKeys):
        return select.exclude
    if isinstance(select, (BottomMass, NextMass)):
        return TopMass(select.keys_per_head, select.shared_keys, select.queries, select.within)
    return None
