"""Random numbers that depend on what they are for, not on when or where they are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sinkscope.errors import UsageError


@dataclass(frozen=True)
class KeyedRandom:
    """One random stream per row, keyed by (stream, seed, unit, site, branch, step).

    The numbers are drawn on the CPU, so they are the same for every batch size, row order and device.
    """

    units: tuple[str, ...]
    """[row] the unit (prompt and seed) of each row"""
    branches: tuple[str, ...]
    """[row] "cond", "uncond" or "none\""""
    site: str
    """key of the attention call"""
    step: int
    """sampler step"""

    def __post_init__(self) -> None:
        if len(self.units) != len(self.branches):
            raise UsageError(
                f"Got {len(self.units)} units and {len(self.branches)} branches; expected one of each per "
                "row."
            )

    @classmethod
    def of(cls, units: Sequence[object], branches: Sequence[str], site: str, step: int) -> KeyedRandom:
        """Build from any unit ids; their text is what counts."""
        return cls(tuple(str(unit) for unit in units), tuple(branches), site, step)

    def without_step(self) -> KeyedRandom:
        """The streams that do not depend on the step."""
        # No sampler step is negative.
        return replace(self, step=-1)

    def uniform(self, seed: int, shape: tuple[int, ...]) -> Tensor:
        """float64 CPU [row, *shape], uniform on [0, 1)."""
        return torch.stack(
            [torch.rand(shape, generator=g, dtype=torch.float64) for g in self._rows("uniform", seed)]
        )

    def normal(self, seed: int, shape: tuple[int, ...]) -> Tensor:
        """float64 CPU [row, *shape], standard normal."""
        return torch.stack(
            [torch.randn(shape, generator=g, dtype=torch.float64) for g in self._rows("normal", seed)]
        )

    def _rows(self, stream: str, seed: int) -> list[torch.Generator]:
        found = []
        for unit, branch in zip(self.units, self.branches, strict=True):
            text = repr((stream, int(seed), unit, self.site, branch, self.step))
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            found.append(torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1))
        return found
