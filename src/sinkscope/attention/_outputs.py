"""The query side: selectors that choose queries, and the action that replaces what they get.

Adding one number to all logits of a query changes nothing, since a softmax row does not feel it. What a query
takes out of a call is its output row, so that is what `ReplaceOutput` changes; attention weights stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from sinkscope.errors import UsageError, unknown

from ._actions import check_number, mean_value, register_action
from ._context import SelectionContext, default_group
from ._edits import Action, EditedCall
from ._measure import measure
from ._operands import expand_kv
from ._questions import ask
from ._random import KeyedRandom
from ._selectors import Selector, check_budget, register_selector

TARGETS = ("mean_value", "mean_output", "zero")


def largest(scores: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """The `counts` candidates of highest score; [..., query], counts [..., 1]; ties to the lower index."""
    order = scores.masked_fill(~candidates, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )
    return (rank < counts) & candidates


def open_queries(ctx: SelectionContext, name: str | None) -> Tensor:
    """Boolean [row, query]: the group to choose from; None = image queries where there are any, else all."""
    return ctx.queries(default_group(ctx.query_groups) if name is None else name)


@dataclass(frozen=True)
class _QueryBudget(Selector):
    queries_per_head: int | None = None
    """queries for each head on its own"""
    shared_queries: int | None = None
    """queries in one set shared by all heads of a row"""
    queries: str | None = None
    """query group to choose from; None = image queries where the model has them, else all"""

    def __post_init__(self) -> None:
        check_budget(self, ("queries_per_head", "shared_queries"))

    @property
    @override
    def side(self) -> str:
        return "queries"

    @property
    @override
    def always_chooses(self) -> bool:
        return True

    def _pick(self, scores: Tensor, ctx: SelectionContext) -> Tensor:
        """The budget's highest scores; [row, head, query]."""
        inside = open_queries(ctx, self.queries)
        count = self.queries_per_head or self.shared_queries or 0
        check_queries(type(self).__name__, count, inside, ctx)
        if self.shared_queries is not None:
            scores = scores.mean(1, keepdim=True).expand_as(scores)
        return largest(scores, inside[:, None].expand_as(scores), torch.tensor(count, device=scores.device))


def check_queries(name: str, count: int, inside: Tensor, ctx: SelectionContext) -> None:
    """Refuse a budget above the number of queries there are.

    Raises:
        UsageError: Says how many there are.
    """

    def check(left: list[float]) -> None:
        free = int(left[0])
        if count > free:
            raise UsageError(
                f"{name} asks for {count} queries per head, but only {free} are there to choose from at "
                f"{ctx.random.site!r}. Use a budget of at most {free}, or queries='all'."
            )

    ask(inside.sum(-1).amin() if inside.numel() else torch.zeros(1), check)


@register_selector
@dataclass(frozen=True)
class TopConcentration(_QueryBudget):
    """The queries whose attention is most concentrated: largest c_i = max_j softmax(scale q_i.k + mask)_j.

    The paper's release ranks image queries by this, averaged over heads (`shared_queries`).
    """

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        return self._pick(ctx.concentration(), ctx)


@register_selector
@dataclass(frozen=True)
class RandomQueries(_QueryBudget):
    """Queries drawn uniformly without replacement, keyed by unit, seed, site, branch and step."""

    seed: int = 0
    """random seed of the draw"""

    @override
    def choose(self, ctx: SelectionContext) -> Tensor:
        count = open_queries(ctx, self.queries).shape[-1]
        numbers = ctx.random.uniform(self.seed, (ctx.shape[1], count)).to(ctx.device)
        shared = self.shared_queries is not None
        return self._pick(numbers[:, :1].expand_as(numbers) if shared else numbers, ctx)


@register_action
@dataclass(frozen=True)
class ReplaceOutput(Action):
    """Move the output rows of the chosen queries: o' = o + amount * (target - o).

    Targets, per row and head: "mean_value", the mean of the values of all keys the model lets through, which
    is what a query gets that attends to all of them alike; "mean_output", the mean of the model's own outputs
    over all queries that see any key (sum_j m_j v_j with m the incoming mass); "zero". Values and outputs are
    those before any edit.
    """

    with_: Literal["mean_value", "mean_output", "zero"]
    """what the outputs move towards"""
    amount: float = 1.0
    """0 changes nothing, 1 replaces"""
    stage: ClassVar[str] = "output"

    def __post_init__(self) -> None:
        if self.with_ not in TARGETS:
            raise unknown("output target", self.with_, TARGETS)
        check_number("ReplaceOutput", "amount", self.amount)

    @property
    @override
    def side(self) -> str:
        return "queries"

    @property
    @override
    def is_identity(self) -> bool:
        return self.amount == 0.0

    @override
    def apply(self, call: EditedCall, chosen: Tensor, random: KeyedRandom | None) -> EditedCall:
        if call.v is None:
            return call
        target = self._target(call if call.original is None else call.original)
        here = chosen if call.positions is None else chosen[:, :, call.positions]

        def move(out: Tensor) -> Tensor:
            wide = out.to(target.dtype)
            moved = target.expand_as(wide) if self.amount == 1.0 else wide + self.amount * (target - wide)
            return torch.where(here[..., None], moved.to(out.dtype), out)

        return replace(call, finish=(*call.finish, move))

    def _target(self, call: EditedCall) -> Tensor:
        """[row, head, 1, dim] in float32 (float64 for float64 values)."""
        v: Any = call.v
        v = expand_kv(v, call.q.shape[1])
        v = v if v.dtype == torch.float64 else v.float()
        if self.with_ == "zero":
            return torch.zeros_like(v[:, :, :1])
        if self.with_ == "mean_value":
            return mean_value(call, v)
        how: Any = {"mask": call.mask, "scale": call.scale, "is_causal": call.is_causal}
        how["softcap"] = call.softcap
        seen = measure(call.q, call.k, call.v, want=("output", "concentration"), **how)
        assert seen.output is not None and seen.concentration is not None  # both were asked for
        alive = (seen.concentration > 0).to(seen.output.dtype)[..., None]
        return (seen.output * alive).sum(2, keepdim=True) / alive.sum(2, keepdim=True).clamp_min(1.0)
