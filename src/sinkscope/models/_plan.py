"""One edit on its way through a run: whether it means a call, which keys it takes, whether it ever acted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor

from sinkscope.attention import (
    SPLIT_ACTIONS,
    Frozen,
    KeyedRandom,
    ResolvedEdit,
    SelectionContext,
    Selector,
    on_device,
)
from sinkscope.errors import NoMatchError
from sinkscope.models._call import AttentionCall, Site
from sinkscope.models._eager import check_sinks
from sinkscope.models._edit import Edit
from sinkscope.models._matched import NoKeys, treatment
from sinkscope.models._measure import PADDING, group_name, group_queries, measure_call, open_keys
from sinkscope.models._scope import StepScope, check_heads
from sinkscope.models._sites import resolve_sites
from sinkscope.models._units import RowId, Units


class CallMass:
    """Incoming mass of one call, measured at most once for all edits and their receipts together."""

    def __init__(self, call: AttentionCall, planned: set[str]) -> None:
        self._call = call
        self._planned = planned
        self._mass: dict[str, Tensor] = {}
        self._concentration: Tensor | None = None

    def __call__(self, group: str) -> Tensor:
        """Float32 `[row, head, key]` of a query group."""
        if group not in self._mass:
            self._mass |= measure_call(self._call, sorted({*self._planned, group} - set(self._mass))).mass
        return self._mass[group]

    def concentration(self) -> Tensor:
        """Largest softmax weight of every query, `[row, head, query]`."""
        if self._concentration is None:
            self._concentration = measure_call(self._call, ["all"], want=("concentration",)).concentration
        assert self._concentration is not None  # it was asked for
        return self._concentration


class Plan:
    """One edit of an `intervene` block."""

    def __init__(self, edit: Edit, pipe: Any) -> None:
        self.edit = edit
        self.sites: list[Site] = resolve_sites(pipe, layers=edit.layers, sites=edit.sites, kind=edit.kind)
        self._names = {site.name for site in self.sites}
        self.steps = StepScope(edit.steps)
        self.empty_path = isinstance(edit.select, NoKeys)
        self._memory: dict[str, dict[Any, Any]] = {}
        self._generation: int | None = None
        frozen = _frozen(edit.select)
        self._frozen = None if frozen is None else StepScope([frozen.step])
        self._matched = self._chose = False
        self._branches: set[str] = set()
        for site in self.sites:
            if site.heads:
                check_heads(edit.heads, site.name, site.heads)

    def wants(self, call: AttentionCall) -> bool:
        """Whether the edit acts on this call, or has to look at it to remember what it chose."""
        if call.site.name not in self._names:
            return False
        active = self.steps.includes(call.step, call.step_count)
        if self._frozen is not None:
            self._frozen.includes(call.step, call.step_count)
        self._branches |= {info.branch for info in call.rows}
        return bool(self.scope_rows(call)) and (active or self.edit.select.must_see(call.step))

    def groups(self, call: AttentionCall) -> set[str]:
        """Query groups whose mass the selector needs."""
        return {group_name(call, name) for name in self.edit.select.required_queries()}

    def receipt_group(self, call: AttentionCall) -> str:
        """Whose mass the receipt states: that of the edited queries, or of those that chose the keys."""
        if self.edit.queries != "all":
            return group_name(call, self.edit.queries)
        needed = set(self.edit.select.required_queries())
        return group_name(call, needed.pop() if len(needed) == 1 else None)

    def resolve(
        self, call: AttentionCall, rows: tuple[RowId, ...], units: Units, mass: CallMass
    ) -> ResolvedEdit | None:
        """The keys (or queries) the edit takes in this call; None where it only looked.

        Raises:
            UsageError: an unknown head, segment or query segment, or a budget larger than the number of keys.
        """
        edit = self.edit
        check_heads(edit.heads, call.site.name, call.q.shape[1])
        # Rows of the other branch are not asked: their budgets and masks are none of this edit's business.
        index = on_device(self.scope_rows(call), call.q.device)
        found = edit.select.choose(self._context(call, rows, units, mass, index)).to(call.q.device)
        if not self.steps.includes(call.step, call.step_count):
            return None
        self._matched = True
        self._chose |= self._frozen is None or bool(found.any())
        chosen = found.new_zeros(len(rows), *found.shape[1:]).index_copy(0, index, found)
        if edit.heads is not None:
            heads = on_device([head in edit.heads for head in range(chosen.shape[1])], chosen.device)
            chosen = chosen & heads[:, None]
        check_sinks(call, edit.action, chosen)
        return ResolvedEdit(
            chosen,
            edit.action,
            None if edit.queries == "all" else group_queries(call, group_name(call, edit.queries)),
            force_path=self.empty_path,
            rows=torch.zeros(len(rows), dtype=torch.bool, device=index.device).index_fill(0, index, True),
            random=keyed_random(call, rows, units),
            covers=self._covers(call),
            count=_budget(edit.select),
        )

    def _covers(self, call: AttentionCall) -> Literal["all", "some"] | None:
        """What the edit reaches, as far as that follows from its settings alone."""
        heads = self.edit.heads is None or self.empty_path or len(self.edit.heads) == call.q.shape[1]
        if not self.empty_path and not getattr(self.edit.select, "always_chooses", False):
            return None
        return "all" if heads and len(self.scope_rows(call)) == len(call.rows) else "some"

    def split_budget(self, call: AttentionCall) -> int | None:
        """How many keys the edit takes in every row and head; None where the call may not be split for it."""
        kind = type(self.edit.action) in SPLIT_ACTIONS and self.edit.queries == "all"
        if not kind or self._frozen is not None or self._covers(call) != "all":
            return None
        return 0 if self.empty_path else _budget(self.edit.select)

    def guess(self, call: AttentionCall, rows: tuple[RowId, ...], units: Units, mass: CallMass) -> Tensor:
        """What the selector would choose by another mass, bool `[row, head, key]`; nothing is remembered."""
        index = on_device(self.scope_rows(call), call.q.device)
        found = self.edit.select.choose(self._context(call, rows, units, mass, index)).to(call.q.device)
        return found.new_zeros(len(rows), *found.shape[1:]).index_copy(0, index, found)

    def treated(
        self, call: AttentionCall, rows: tuple[RowId, ...], units: Units, mass: CallMass
    ) -> Tensor | None:
        """Of a control, the keys that its treatment would take in this call, bool `[row, head, key]`.

        None where the edit is no control, or one that is not made from the keys of the treatment.
        """
        select = None if self.edit.control_info is None else treatment(self.edit.select)
        if select is None:
            return None
        index = on_device(self.scope_rows(call), call.q.device)
        found = select.choose(self._context(call, rows, units, mass, index)).to(call.q.device)
        return found.new_zeros(len(rows), *found.shape[1:]).index_copy(0, index, found)

    def scope_rows(self, call: AttentionCall) -> list[int]:
        """Rows of the branch the edit is limited to; not those whose queries are all padding, such as texts
        of a batch that have ended."""
        branch, padding = self.edit.branch, call.query_segments.get(PADDING)
        # Where rows are alike, one mask stands for all of them.
        ended = None if padding is None else padding.all(-1).expand(len(call.rows))
        idle = [False] * len(call.rows) if ended is None else ended.tolist()
        return [
            row for row, info in enumerate(call.rows) if branch in ("both", info.branch) and not idle[row]
        ]

    def _context(
        self, call: AttentionCall, rows: tuple[RowId, ...], units: Units, mass: CallMass, index: Tensor
    ) -> SelectionContext:
        # Frozen sets belong to one generation.
        if self._generation is None or call.generation > self._generation:
            self._generation, self._memory = call.generation, {}
        return SelectionContext(
            (len(index), call.q.shape[1], call.k.shape[2]),
            lambda name: mass(name)[index],
            keyed_random(call, [rows[row] for row in self.scope_rows(call)], units),
            groups=("all", *call.query_segments),
            segments=_rows_of(call.key_segments, index),
            queries={
                **_rows_of(call.query_segments, index),
                "all": torch.ones(call.q.shape[2], dtype=torch.bool, device=call.q.device),
            },
            concentration=lambda: mass.concentration()[index],
            step=call.step,
            device=call.q.device,
            allowed=open_keys(call)[index],
            memory=self._memory.setdefault(call.site.key, {}),
        )

    def check(self) -> None:
        """Refuse an edit that never acted.

        Raises:
            NoMatchError: no attention call lay in its scope.
            UsageError: it lists steps that a bare module never reached.
        """
        self.steps.check()
        if self._frozen is not None:
            self._frozen.check()
        if self._chose:
            return
        edit = self.edit
        if not self._branches:
            reason = "no attention call was made at its sites: run the pipeline inside the with block"
        elif edit.branch not in ("both", *self._branches):
            reason = (
                f"branch={edit.branch!r} never ran, only {', '.join(sorted(self._branches))}: turn guidance "
                "on, or use branch='both'"
            )
        elif self._matched:
            reason = f"its keys are chosen only after all steps of steps={edit.steps!r}"
        else:
            reason = f"none of the steps that ran lies in steps={edit.steps!r}"
        raise NoMatchError(f"Edit {edit.hash} matched no attention call, so nothing was edited: {reason}.")


def _rows_of(segments: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: part if part.dim() == 1 else part[index.to(part.device)] for name, part in segments.items()}


def keyed_random(call: AttentionCall, rows: Sequence[RowId], units: Units) -> KeyedRandom:
    """Random numbers of a call, keyed by unit (and frame), branch, site and step."""
    names = [units.label(row.unit) + (f"/{row.repeat}" if row.repeat else "") for row in rows]
    return KeyedRandom.of(names, [row.branch for row in rows], call.site.lasting_key, call.step)


def _budget(select: Selector) -> int | None:
    """How many keys the selector takes in every row and head; None where only looking tells."""
    if not getattr(select, "always_chooses", False):
        return None
    return getattr(select, "keys_per_head", None) or getattr(select, "shared_keys", None)


def _frozen(select: Selector) -> Frozen | None:
    """The selector, or one inside it, that has to see a certain step."""
    if isinstance(select, Frozen):
        return select
    inner = (getattr(select, item.name) for item in fields(select) if item.init)  # type: ignore[arg-type]
    return next((found for part in inner if isinstance(part, Selector) and (found := _frozen(part))), None)
