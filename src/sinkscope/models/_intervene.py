"""Change a model's attention while it runs.

Rows, heads and queries that no edit reaches get the model's own output, bit for bit, whatever happens to
their neighbours; so does everything when an edit is at its identity setting. The random draws of an edit
depend on unit, site, branch and step only, never on the batch. An observation opened outside of `intervene`
sees a call as the edit issues it: masked keys are masked there, but an edit of some queries or of softmax
weights is not visible; the receipt has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sinkscope.attention import ResolvedEdit, apply_edits, mass_after, on_device
from sinkscope.errors import UsageError, unknown
from sinkscope.models._additive import SplitMass, split_mass
from sinkscope.models._call import AttentionCall, Run
from sinkscope.models._edit import Edit
from sinkscope.models._kept import Kept
from sinkscope.models._late import Late, without_tensors
from sinkscope.models._measure import check_finite, exact, group_queries, open_keys, where
from sinkscope.models._plan import CallMass, Plan
from sinkscope.models._receipt import Applied, Places, Receipt
from sinkscope.models._seen import Seen
from sinkscope.models._session import Session
from sinkscope.models._sites import list_sites
from sinkscope.models._split import Origins, is_partial, issuing
from sinkscope.models._table import Tokens
from sinkscope.models._units import RowId, Units

ReceiptMode = bool | Literal["full"]
_UNMOVED = ("values", "output")


class _Acting(NamedTuple):
    """An edit of this call, and for a control the keys its treatment would take here."""

    plan: Plan
    edit: ResolvedEdit
    treated: Tensor | None


class _Editor:
    """Handler that applies the edits whose scope a call lies in, and writes the receipt."""

    def __init__(
        self, plans: Sequence[Plan], receipt: Receipt, units: Units, mode: ReceiptMode, split: bool = False
    ) -> None:
        self._plans = plans
        self._receipt = receipt
        self._units = units
        self._mode = mode
        self._split = split
        self._tokens = Tokens()
        self._kept = Kept()
        self._origins = Origins()
        self._late = Late()

    def __call__(self, call: AttentionCall, run: Run) -> Tensor:
        call = self._origins.settle(call)
        rows = self._units.rows(call)
        plans = [plan for plan in self._plans if plan.wants(call)]
        if not plans:
            return run(call)
        if is_partial():
            raise UsageError(
                f"Edit {plans[0].edit.hash} stands outside of a block whose edit is limited to some queries "
                f"at {where(call)}. Pass both edits to one intervene(pipe, [first, second])."
            )
        with self._late.reading(call, checked=True):
            return self._act(call, run, rows, plans)

    def settle(self) -> None:
        """Read what the calls of a forward pass have left to be read."""
        self._late.settle()

    def _act(self, call: AttentionCall, run: Run, rows: tuple[RowId, ...], plans: Sequence[Plan]) -> Tensor:
        check_finite(call)
        groups = {name for plan in plans for name in plan.groups(call)}
        if self._mode:
            groups |= {plan.receipt_group(call) for plan in plans}
        mass = self._measuring(call, rows, plans, groups)
        found = [self._resolved(plan, call, rows, mass) for plan in plans]
        acting = [part for part in found if part is not None]
        output = _edited(call, run, [part.edit for part in acting], mass)
        if acting and not call.recompute:
            self._write(call, rows, acting, mass)
        return output

    def _measuring(
        self, call: AttentionCall, rows: tuple[RowId, ...], plans: Sequence[Plan], groups: set[str]
    ) -> CallMass:
        def guess(plan: Plan, mass: CallMass) -> Tensor:
            return plan.guess(call, rows, self._units, mass)

        parts = split_mass(call, groups, plans, guess) if self._split else None
        return CallMass(call, groups) if parts is None else parts

    def _resolved(
        self, plan: Plan, call: AttentionCall, rows: tuple[RowId, ...], mass: CallMass
    ) -> _Acting | None:
        edit = plan.resolve(call, rows, self._units, mass)
        # Asked in every call the plan wants: a frozen treatment has to see its step.
        treated = plan.treated(call, rows, self._units, mass) if self._mode else None
        return None if edit is None else _Acting(plan, edit, treated)

    def _write(
        self, call: AttentionCall, rows: tuple[RowId, ...], acting: Sequence[_Acting], mass: CallMass
    ) -> None:
        edits = [part.edit for part in acting]
        measured = bool(self._mode) and any(_takes_keys(edit) for edit in edits)
        groups = {part.plan.receipt_group(call) for part in acting}
        after = _mass_after(call, edits, groups, mass) if measured else {}
        for part in acting:
            group = part.plan.receipt_group(call)
            pair = (mass(group), after[group]) if measured else None
            self._late.then(self._applied(call, rows, part, pair))

    def _applied(
        self,
        call: AttentionCall,
        rows: tuple[RowId, ...],
        acting: _Acting,
        pair: tuple[Tensor, Tensor] | None,
    ) -> Callable[[], None]:
        """Start the copies a record needs; what is returned writes it once they have arrived."""
        plan, edit = acting.plan, acting.edit
        scope = plan.scope_rows(call)
        place = on_device(scope, edit.chosen.device)
        heads = tuple(range(call.q.shape[1])) if plan.edit.heads is None else tuple(plan.edit.heads)
        pick = on_device(heads, place.device)
        tokens = self._tokens.of(call, rows)
        origin = Seen.of(
            call,
            queries=plan.receipt_group(call),
            rows=tuple(rows[row] for row in scope),
            heads=heads,
            tokens=tuple(tokens[row] for row in scope),
            values={"keys": self._late.take(open_keys(call).sum(dim=-1)[place])},
        )
        parts = (edit.chosen, *(pair or ()), *(() if acting.treated is None else (acting.treated,)))
        found = [self._late.take(part[place][:, pick]) for part in parts]
        treated = None if acting.treated is None else found.pop()
        taken, *masses = found
        size, bare = call.k.shape[2], without_tensors(call)
        on_keys = edit.action.side == "keys"

        def write() -> None:
            kept = self._kept.share(plan.edit.hash, bare, origin.rows, taken)
            chosen = taken if on_keys else taken.new_zeros(*taken.shape[:2], size)
            self._receipt.add(self._record(plan, origin, chosen, taken, masses, treated, kept))

        return write

    def _record(
        self,
        plan: Plan,
        origin: Seen,
        chosen: Tensor,
        taken: Tensor,
        masses: Sequence[Tensor],
        treated: Tensor | None,
        kept: Tensor,
    ) -> Applied:
        """`chosen` are the keys, `taken` what the edit took: the same, or queries."""
        on_keys = chosen is taken
        places = chosen.nonzero(as_tuple=True)
        values = {
            "count": chosen.sum(dim=-1),
            **origin.values,
            "outputs": (taken & (not on_keys)).sum(dim=-1),
            "kept": kept,
        }
        edited: dict[str, Any] = {}
        for name, mass in zip(("before", "after"), masses, strict=bool(masses)):
            values[f"mass_{name}"] = torch.where(chosen, mass, 0.0).sum(dim=-1)
            edited[f"mass_{name}"] = mass[places].numpy()
            if self._mode == "full":
                values[name] = mass
        if self._mode and not masses:
            # Nothing chosen: the mass of no key is zero, not unknown.
            values |= {name: torch.zeros(chosen.shape[:2]) for name in ("mass_before", "mass_after")}
        if treated is not None:
            before = masses[0] if masses else torch.zeros(treated.shape)
            values["treated_keys"] = treated.sum(dim=-1)
            values["treated_mass"] = torch.where(treated, before, 0.0).sum(dim=-1)
        queried = (taken & (not on_keys)).nonzero(as_tuple=True)
        return Applied(
            replace(origin, values=values), plan.edit.hash, _arrays(places), _arrays(queried), edited
        )


def _takes_keys(edit: ResolvedEdit) -> bool:
    if edit.action.side != "keys" or edit.force_path:
        return False  # the path is forced where nothing is chosen
    return edit.covers is not None or bool(edit.chosen.any())


def _arrays(places: Sequence[Tensor]) -> Places:
    first, second, third = (np.asarray(part) for part in places)
    return first, second, third


def _edited(call: AttentionCall, run: Run, edits: Sequence[ResolvedEdit], mass: CallMass) -> Tensor:
    if not edits:
        return run(call)
    count = call.q.shape[2]

    def issue(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
    ) -> Tensor:
        with issuing(call, partial=q.shape[2] != count):
            return run(call.replace(q=q, k=k, v=v, mask=mask, is_causal=is_causal, scale=scale))

    if isinstance(mass, SplitMass):
        output = mass.merged(call, edits, issue, drop=_may_drop(call))
        if output is not None:
            return output
    return apply_edits(
        call.q,
        call.k,
        call.v,
        edits,
        run=issue,
        mask=call.mask,
        scale=call.scale,
        is_causal=call.is_causal,
        softcap=call.softcap,
        drop=_may_drop(call),
    )


def _may_drop(call: AttentionCall) -> bool:
    """Whether removed keys may be left out: on GPUs, where nobody further out looks at the call's keys."""
    alone = not torch.overrides._get_current_function_mode_stack()
    return call.q.device.type == "cuda" and alone and not call.sinks


def _mass_after(
    call: AttentionCall, edits: Sequence[ResolvedEdit], groups: set[str], mass: CallMass
) -> dict[str, Tensor]:
    if all(edit.action.is_identity or edit.action.stage in _UNMOVED for edit in edits):
        return {name: mass(name) for name in groups}
    with exact(call):
        return mass_after(
            call.q,
            call.k,
            edits,
            mask=call.mask,
            scale=call.scale,
            is_causal=call.is_causal,
            softcap=call.softcap,
            queries={name: group_queries(call, name) for name in sorted(groups)},
        )


@contextmanager
def intervene(
    pipe: Any,
    edits: Edit | Sequence[Edit],
    *,
    units: Sequence[str] | None = None,
    receipt: ReceiptMode = True,
    strict: bool = True,
    tokenizer: Any = None,
    split: bool = False,
) -> Iterator[Receipt]:
    """Edit attention while the pipeline runs inside the `with` block.

    Example:
        >>> edit = Edit(TopMass(keys_per_head=1), Mask(), layers=[3])    # doctest: +SKIP
        >>> with intervene(pipe, edit) as receipt:                       # doctest: +SKIP
        ...     image = pipe("a photo of a red circle").images[0]
        >>> receipt.table()                                              # doctest: +SKIP

    Args:
        pipe: A pipeline, or a bare module: a denoiser, a language or a vision model (a step is then a forward
            call).
        edits: One edit or several; those of one call compose by the stage of their actions and all choose
            their keys on the unedited call. An empty list changes nothing on the same path: the baseline.
        units: Names of the generated images, in order. Random draws are keyed by them, so the same unit gets
            the same keys alone and in any batch; without names they are keyed by the running number.
        receipt: True measures the mass of the edited keys before and after (one more pass over the attention
            of edited calls), `"full"` also keeps the mass of all keys for `Receipt.replacements`, False only
            lists keys.
        strict: False goes on where attention modules cannot be seen or a cache skips steps; what was not
            seen is then not edited.
        tokenizer: Of a bare language model: gives its tokens their strings and tells its special marks.
        split: Form the output in the pass that measures, from the keys that are not likely to be chosen, and
            add the others as the edits leave them (the additive split): faster for large calls where many
            layers are edited. Equal up to rounding to the default way, which runs the model's own kernel
            with the edit. Calls that cannot be split are edited the default way, which is said once.

    Yields:
        The receipt, filled while the pipeline runs.

    Raises:
        UsageError: an unknown layer, site, kind, segment, head or step, or a budget larger than the number of
            keys.
        NoMatchError: on leaving the block, when an edit matched no attention call.
        UnsupportedAttentionError: attention that would be missed, unless `strict` is False.
        NonFiniteError: NaN or infinity in queries, keys or values of an edited call.
    """
    if receipt not in (True, False, "full"):
        raise unknown("receipt", receipt, (True, False, "full"))
    several = [edits] if isinstance(edits, Edit) else list(edits)
    for edit in several:
        if not isinstance(edit, Edit):
            raise UsageError(
                f"Got {edit!r}. Expected an Edit, for example Edit(TopMass(keys_per_head=1), Mask())."
            )
    if len({edit.hash for edit in several}) < len(several):
        raise UsageError(
            f"Got the same edit twice: {[edit.hash for edit in several]}. Expected different edits."
        )
    plans = [Plan(edit, pipe) for edit in several]
    numbers = Units(units)
    kept = Receipt(numbers, full=receipt == "full")
    names = {site.name for plan in plans for site in plan.sites}
    sites = [site for site in list_sites(pipe) if site.name in names] if several else list_sites(pipe)
    # Without an edit there is nothing that an unseen attention module could have missed.
    with Session(
        pipe,
        [_Editor(plans, kept, numbers, receipt, split)],
        sites=sites,
        strict=strict and bool(several),
        tokenizer=tokenizer,
    ):
        yield kept
    for plan in plans:
        plan.check()
