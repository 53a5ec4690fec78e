"""What a selector may look at when it chooses keys."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from sinkscope.errors import UsageError, unknown

from ._questions import ask
from ._random import KeyedRandom


def _check_ranked(name: str, missing: list[float]) -> None:
    rows = [row for row, none in enumerate(missing) if none]
    if rows:
        raise UsageError(
            f"Rows {rows} have no query in group {name!r} that sees any key, so no key can be "
            "ranked by its mass. Choose other queries, or leave these rows out of the edit."
        )


def default_group(groups: Collection[str]) -> str:
    """The query group that counts when none is named: the queries of what is being painted (video, image or
    audio) where the model has them, else all."""
    # A video model may be shown an image besides: its video decides.
    return next((name for name in ("video", "image", "audio") if name in groups), "all")


class SelectionContext:
    """One attention call as seen by selectors.

    Args:
        shape: (row, head, key).
        masses: Incoming mass per query group, each [row, head, key]; or a function from group name to it
            (called once per group, on first use) together with `groups`.
        random: Keyed random numbers of this call.
        groups: Names that `masses` answers to; read off `masses` where it is a mapping.
        segments: name -> boolean [key] or [row, key].
        step: Sampler step.
        device: Where chosen sets live.
        allowed: boolean [row, key], False for keys the model itself masks out; None = every key. No selector
            chooses a key that is not allowed.
        queries: name -> boolean [query] or [row, query], with the entry "all"; what `TopConcentration` and
            other selectors of queries choose from.
        concentration: Gives the largest softmax weight of every query, [row, head, query]; called once, on
            first use.
        memory: Kept by the caller per edit and site over the steps of one generation, for `Frozen`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        masses: Mapping[str, Tensor] | Callable[[str], Tensor],
        random: KeyedRandom,
        *,
        groups: Collection[str] | None = None,
        segments: Mapping[str, Tensor] | None = None,
        step: int = 0,
        device: torch.device | str = "cpu",
        allowed: Tensor | None = None,
        queries: Mapping[str, Tensor] | None = None,
        concentration: Callable[[], Tensor] | None = None,
        memory: MutableMapping[Any, Any] | None = None,
    ) -> None:
        if groups is None:
            groups = tuple(masses) if isinstance(masses, Mapping) else ("all",)
        if len(random.units) != shape[0]:
            raise UsageError(
                f"Got random numbers keyed for {len(random.units)} rows; expected {shape[0]}, one per row."
            )
        self.shape = shape
        self.random = random
        self.groups = tuple(groups)
        self.segments: Mapping[str, Tensor] = {} if segments is None else segments
        self.step = step
        self.device = torch.device(device)
        self.allowed = allowed
        self.memory: MutableMapping[Any, Any] = {} if memory is None else memory
        self._masses = masses
        self._queries: Mapping[str, Tensor] = {} if queries is None else queries
        self._concentration = concentration
        self._cache: dict[str, Tensor] = {}

    def mass(self, group: str | None = None) -> Tensor:
        """Incoming mass [row, head, key] from a query group; None = image queries if any, else all."""
        name = default_group(self.groups) if group is None else group
        if name not in self._cache:
            if name not in self.groups:
                raise unknown("query group", name, self.groups)
            found = self._masses[name] if isinstance(self._masses, Mapping) else self._masses(name)
            ask(torch.isnan(found).flatten(1).any(1), functools.partial(_check_ranked, name))
            self._cache[name] = found
        return self._cache[name]

    def segment(self, name: str) -> Tensor:
        """Boolean [row, key] of a named segment."""
        if name not in self.segments:
            raise unknown("segment", name, self.segments)
        rows, _, keys = self.shape
        found = self.segments[name]
        return (
            (found[None] if found.dim() == 1 else found).to(self.device, non_blocking=True).expand(rows, keys)
        )

    @property
    def query_groups(self) -> tuple[str, ...]:
        """Names that `queries` answers to."""
        return tuple(self._queries)

    def queries(self, name: str = "all") -> Tensor:
        """Boolean [row, query] of a named query group."""
        if name not in self._queries:
            raise unknown("query group", name, self.query_groups)
        found = self._queries[name]
        full = (found[None] if found.dim() == 1 else found).to(self.device, non_blocking=True)
        return full.expand(self.shape[0], full.shape[-1])

    @property
    def query_shape(self) -> tuple[int, int, int]:
        """(row, head, query)."""
        return (*self.shape[:2], self.queries().shape[-1])

    def concentration(self) -> Tensor:
        """Largest softmax weight of every query, [row, head, query]."""
        if self._concentration is None:
            raise UsageError(
                "This context does not know how concentrated the queries' attention is. Pass "
                "concentration=... to SelectionContext."
            )
        if "" not in self._cache:
            self._cache[""] = self._concentration()
        return self._cache[""]

    def candidates(self) -> Tensor:
        """Boolean [row, key]: keys that may be chosen at all."""
        rows, _, keys = self.shape
        if self.allowed is None:
            return torch.ones(rows, keys, dtype=torch.bool, device=self.device)
        return self.allowed.to(self.device).expand(rows, keys)

    def uniform(self, seed: int, *, fixed: bool = False) -> Tensor:
        """float64 [row, head, key] uniform numbers keyed by (unit, seed, site, branch, step).

        With `fixed` they are the same in every step.
        """
        random = self.random.without_step() if fixed else self.random
        return random.uniform(seed, self.shape[1:]).to(self.device, non_blocking=True)
