"""Measuring a call and forming most of its edited output in one pass (`intervene(..., split=True)`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sinkscope.attention import (
    EditedCall,
    ResolvedEdit,
    Run,
    Split,
    can_be_merged,
    can_split,
    candidate_count,
    merge,
    pick_candidates,
    sampled_mass,
    split,
)
from sinkscope.models._call import AttentionCall
from sinkscope.models._measure import exact, group_queries, where
from sinkscope.models._plan import CallMass, Plan

Guess = Callable[[Plan, CallMass], Tensor]
"""What a plan would choose by the mass it is given."""
_SAID: set[str] = set()


class SplitMass(CallMass):
    """Mass of one call, from the pass that also forms the output of all keys but the candidates."""

    def __init__(self, call: AttentionCall, planned: set[str], parts: Split) -> None:
        super().__init__(call, planned)
        self._mass = dict(parts.measurement.mass)
        self.parts = parts

    def merged(
        self, call: AttentionCall, edits: Sequence[ResolvedEdit], run: Run, *, drop: bool
    ) -> Tensor | None:
        """The edited output; None where an edit is none that can be merged. Uses the parts up."""
        if not all(map(can_be_merged, edits)):
            return None
        with torch.no_grad():
            return merge(self.parts, call.q, call.k, call.v, edits, run=run, scale=call.scale, drop=drop)


class _SampledMass(CallMass):
    """Mass by a sample of the queries, for guessing."""

    def __call__(self, group: str) -> Tensor:
        if group not in self._mass:
            call = self._call
            with exact(call):
                queries = group_queries(call, group)
                self._mass[group] = sampled_mass(call.q, call.k, queries, scale=call.scale)
        return self._mass[group]


def split_mass(
    call: AttentionCall, groups: set[str], plans: Sequence[Plan], guess: Guess
) -> SplitMass | None:
    """Split a call for its edits; None where it cannot be, which is said once per reason."""
    why, count = _refusal(call, plans)
    if count is None:
        if why not in _SAID:
            _SAID.add(why)
            warnings.warn(
                f"split=True does not reach {where(call)}: {why}. Such calls are measured and then edited, "
                "with the same result up to rounding.",
                stacklevel=2,
            )
        return None
    sample = _SampledMass(call, groups)
    guesses = [guess(plan, sample) for plan in plans if not plan.empty_path]
    with exact(call):
        candidates = pick_candidates([sample(group) for group in sorted(groups)], guesses, count)
        queries = {name: group_queries(call, name) for name in sorted(groups)}
        parts = split(call.q, call.k, call.v, candidates, scale=call.scale, queries=queries)
    return SplitMass(call, groups, parts)


def _refusal(call: AttentionCall, plans: Sequence[Plan]) -> tuple[str, int | None]:
    """Why a call cannot be split, and how many candidates it gets if it can."""
    bare = EditedCall(
        call.q,
        call.k,
        call.v,
        mask=call.mask,
        scale=call.scale,
        is_causal=call.is_causal,
        softcap=call.softcap,
    )
    why = can_split(bare)
    if why is None and (call.sinks or call.dropout_p):
        why = "the call has sink logits or dropout"
    budgets = [plan.split_budget(call) for plan in plans]
    if why is None and None in budgets:
        why = "an edit takes no fixed number of keys in every row and head, or changes more than these"
    if why is not None:
        return why, None
    count = candidate_count(sum(budget or 0 for budget in budgets), call.k.shape[2])
    return "" if count else "it has too few keys for its edits", count
