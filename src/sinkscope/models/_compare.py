"""Would an edit change anything? Answered beside a generation instead of by a second one.

A null control sends every call through the masked path without a key. Run as a generation of its own it costs
one; here its handler is asked in every call of a generation without edits, and what it answers is compared
with the model's own output bit for bit. If no call differs, a generation under the edits would have had the
same inputs in every call, by induction over the calls, and so is the same; its receipt is the one written
here. That holds as far as the rest of the model computes the same twice, as any repeated generation has to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sinkscope.models._call import AttentionCall, Run
from sinkscope.models._edit import Edit
from sinkscope.models._intervene import _Editor
from sinkscope.models._plan import Plan
from sinkscope.models._receipt import Receipt
from sinkscope.models._session import Session
from sinkscope.models._units import Units


class Comparison:
    """Whether edits changed a bit of any call, and the receipt of what they did; filled while the pipeline
    runs."""

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt
        """What the edits did; complete only while `same`."""
        self.same = True
        """No call differed so far. After the first that did, nothing is asked any more."""
        self.calls = 0
        """How many calls were compared."""


class _Comparer:
    """Handler that asks an editor and goes on with the model's own output."""

    def __init__(self, editor: _Editor, found: Comparison) -> None:
        self._editor = editor
        self._found = found
        self._same: list[Tensor] = []

    def __call__(self, call: AttentionCall, run: Run) -> Tensor:
        output = run(call)
        if self._found.same and not call.recompute:
            self._same.append(same_bits(output, self._editor(call, run)))
            self._found.calls += 1
        return output

    def settle(self) -> None:
        """Read what the calls of a forward pass found, once for all of them."""
        self._editor.settle()
        if self._same:
            self._found.same &= bool(torch.stack(self._same).all())
            self._same.clear()


def same_bits(first: Tensor, second: Tensor) -> Tensor:
    """Whether two tensors hold the same bits in the same layout (what follows may round by layout), as one
    boolean on their device, so that nothing waits for it.

    NaN counts as different, and so do 0.0 and -0.0.
    """
    if first.dtype != second.dtype or first.shape != second.shape or first.stride() != second.stride():
        return torch.zeros((), dtype=torch.bool, device=first.device)
    return ((first == second) & (torch.signbit(first) == torch.signbit(second))).all()


@contextmanager
def compare(pipe: Any, edits: Sequence[Edit], *, units: Sequence[str] | None = None) -> Iterator[Comparison]:
    """Ask edits in every call of what runs inside the `with` block, and change nothing.

    Open it around any other block (`observe`, `intervene`), so that those do not see the calls it repeats.

    Args:
        pipe: A pipeline, or a bare denoiser module.
        edits: What is asked.
        units: Names of the generated images, in order; what random draws are keyed by.

    Yields:
        The comparison, filled while the pipeline runs.

    Raises:
        UsageError, NonFiniteError: as `intervene`.
        NoMatchError: on leaving the block, when an edit matched no attention call.
    """
    plans, numbers = [Plan(edit, pipe) for edit in edits], Units(units)
    found = Comparison(Receipt(numbers, full=False))
    editor = _Editor(plans, found.receipt, numbers, True)
    sites = [site for plan in plans for site in plan.sites]
    with Session(pipe, [_Comparer(editor, found)], sites=sites):
        yield found
    if found.same:
        for plan in plans:
            plan.check()
