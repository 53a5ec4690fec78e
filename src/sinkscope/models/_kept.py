"""How much of what an edit takes in a step it also took in the step before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sinkscope.models._call import AttentionCall
from sinkscope.models._units import RowId


class _Last(NamedTuple):
    step: int
    chosen: Tensor
    before: Tensor | None
    """What was chosen in the step before `step`; None where that step was not edited."""


class Kept:
    """Remembers, per edit, site and row, what was chosen last."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, RowId], _Last] = {}

    def share(self, edit: str, call: AttentionCall, rows: Sequence[RowId], chosen: Tensor) -> Tensor:
        """Share of the chosen keys that the edit had also chosen in the step before.

        Args:
            edit: `Edit.hash`.
            call: The call.
            rows: Its rows, as in `chosen`.
            chosen: Bool `[row, head, key]` on the CPU.

        Returns:
            `[row, head]`; NaN in the first edited step of a row, after a step without the edit, and where
            nothing is chosen.
        """
        before = [
            self._before((edit, call.site.key, row), call.step, part)
            for row, part in zip(rows, chosen, strict=True)
        ]
        if all(part is None for part in before):
            return torch.full(chosen.shape[:2], torch.nan)
        none = torch.zeros_like(chosen[0])
        same = chosen & torch.stack([none if part is None else part for part in before])
        known = torch.tensor([part is not None for part in before])
        return torch.where(known[:, None], same.sum(-1) / chosen.sum(-1), torch.nan)

    def _before(self, key: tuple[str, str, RowId], step: int, chosen: Tensor) -> Tensor | None:
        """What a row took in the step before; remembers what it takes now."""
        last = self._last.get(key)
        before: Tensor | None = None
        if last is not None and last.chosen.shape == chosen.shape:
            # A sampler that evaluates a step twice compares both with the step before.
            before = last.before if last.step == step else last.chosen if last.step == step - 1 else None
        self._last[key] = _Last(step, chosen, before)
        return before
