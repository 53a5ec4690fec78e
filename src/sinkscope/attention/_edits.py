"""The data an edit of one attention call is made of."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sinkscope.errors import UsageError

from ._operands import Operands, expand_kv
from ._random import KeyedRandom
from ._rowblock import Block
from ._spec import Spec

STAGES = ("qk", "keys", "logits", "normaliser", "probabilities", "values", "output")
"""The order in which several active edits compose, whatever order they are given in."""


@dataclass(frozen=True)
class EditedCall:
    """An attention call on its way through the edits. Actions return a changed copy."""

    q: Tensor
    """[row, head, query, dim]"""
    k: Tensor
    """[row, kv_head or head, key, dim]"""
    v: Tensor | None
    """[row, kv_head or head, key, dim]; None when only weights matter"""
    bias: Tensor | None = None
    """[row, head, 1, key] additive, float32 or float64, on top of the model's mask"""
    shifted: bool = False
    """whether the bias may hold numbers other than 0 and -inf, which half types round"""
    weights: tuple[Callable[[Tensor, Block], Tensor], ...] = ()
    """changes to the softmax weights, in order"""
    finish: tuple[Callable[[Tensor], Tensor], ...] = ()
    """changes to the output, in order"""
    mask: Tensor | None = None
    """the model's mask"""
    scale: float | None = None
    """the model's scale"""
    is_causal: bool = False
    """the model's causal flag"""
    softcap: float | None = None
    """the model's cap on its logits; the issued kernel applies it itself"""
    original: EditedCall | None = None
    """the call with all its queries, before any edit; None = this one"""
    positions: Tensor | None = None
    """[query] position of each query in the model's order; None = all queries in order"""

    def add_bias(self, chosen: Tensor, value: float) -> EditedCall:
        """Add a number to the logits of the chosen keys [row, head, key]."""
        dtype = torch.float64 if self.q.dtype == torch.float64 else torch.float32
        part = torch.zeros(chosen.shape, dtype=dtype, device=chosen.device).masked_fill_(chosen, value)[
            :, :, None
        ]
        bias = part if self.bias is None else self.bias + part
        return replace(self, bias=bias, shifted=self.shifted or value not in (0.0, -math.inf))

    def operands(self) -> Operands:
        """The call as a measuring backend takes it."""
        masks = tuple(mask for mask in (self.mask, self.bias) if mask is not None)
        return Operands(
            self.q,
            self.k,
            self.v,
            masks=masks,
            scale=self.scale,
            is_causal=self.is_causal,
            softcap=self.softcap,
            positions=self.positions,
        )


class Action(Spec):
    """Base class of actions. Subclasses are frozen dataclasses with a `stage` and an `apply`."""

    stage: ClassVar[str]

    @property
    def side(self) -> str:
        """ "keys", or "queries" for an action on chosen queries."""
        return "keys"

    @property
    @abstractmethod
    def is_identity(self) -> bool:
        """Whether these settings change nothing; such an edit leaves every bit as it was."""

    @abstractmethod
    def apply(self, call: EditedCall, chosen: Tensor, random: KeyedRandom | None) -> EditedCall:
        """Return the changed call; `chosen` is boolean [row, head, key], or [row, head, query] by `side`."""

    @property
    def rank(self) -> int:
        """Place of the action's stage in the order of composition."""
        if self.stage not in STAGES:
            raise UsageError(
                f"{type(self).__name__} has stage {self.stage!r}; expected one of {', '.join(STAGES)}."
            )
        return STAGES.index(self.stage)


@dataclass(frozen=True)
class ResolvedEdit:
    """An edit of one call whose keys or queries are already chosen."""

    chosen: Tensor
    """boolean [row, head, key]; [row, head, query] where the action's side is "queries\""""
    action: Action
    """what happens to the chosen keys or queries"""
    queries: Tensor | None = None
    """affected queries, boolean [query] or [row, query]; None = all"""
    force_path: bool = field(default=False, kw_only=True)
    """take the edited path even where nothing is chosen (the null control)"""
    rows: Tensor | None = field(default=None, kw_only=True)
    """boolean [row]: rows the forced path covers; None = all rows"""
    covers: Literal["all", "some"] | None = field(default=None, kw_only=True)
    """what is known without looking: it reaches every row and head, or some of them; None = look"""
    count: int | None = field(default=None, kw_only=True)
    """how many keys are chosen in every row and head that has any, where that is known without looking"""
    random: KeyedRandom | None = field(default=None, kw_only=True)
    """keyed random numbers, needed by actions that draw"""

    def reach(self) -> Tensor:
        """Boolean [row, head]: where this edit may change anything."""
        found = self.chosen.any(-1)
        if self.force_path:
            rows = torch.ones_like(found[:, 0]) if self.rows is None else self.rows.to(found.device)
            found = found | rows[:, None]
        return found


def per_head(call: EditedCall) -> EditedCall:
    """Give every query head its own copy of keys and values, so that heads can be edited apart."""
    heads = call.q.shape[1]
    v = None if call.v is None else expand_kv(call.v, heads)
    return replace(call, k=expand_kv(call.k, heads), v=v)
