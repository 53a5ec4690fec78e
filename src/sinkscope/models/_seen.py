"""One measured call, kept on the CPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sinkscope.models._call import AttentionCall, Site
from sinkscope.models._table import REPEAT_COLUMN, Column, TokenTable, site_name
from sinkscope.models._units import RowId, Units


@dataclass(frozen=True, eq=False)
class Seen:
    """What was measured of one call for one query group."""

    site: Site
    step: int
    timestep: float | None
    sigma: float | None
    generation: int
    evaluation: int
    queries: str
    rows: tuple[RowId, ...]
    heads: tuple[int, ...]
    tokens: tuple[TokenTable, ...]
    values: dict[str, Tensor]
    """Measurements by name, each with the row axis first."""

    @classmethod
    def of(cls, call: AttentionCall, **parts: Any) -> Seen:
        """A record of `call`; `parts` are the fields that the call itself does not tell."""
        names = ("site", "step", "timestep", "sigma", "generation", "evaluation")
        return cls(**{name: getattr(call, name) for name in names}, **parts)

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two records the same call."""
        return self.generation, self.evaluation, self.site.key, self.queries

    @property
    def folded(self) -> bool:
        """Whether several rows stand for the same branch and unit."""
        return any(row.repeat for row in self.rows)

    def merge(self, later: Seen) -> Seen:
        """This call with the rows of a later record of it put in place of its own or behind them.

        An edit opened inside an observation may issue a call twice, for all rows and again for the edited
        ones.
        """
        place = {row: index for index, row in enumerate((*self.rows, *later.rows))}
        rows = tuple(dict.fromkeys((*self.rows, *later.rows)))
        index = torch.tensor([place[row] for row in rows])
        values = {name: torch.cat([self.values[name], later.values[name]])[index] for name in self.values}
        tokens = (*self.tokens, *later.tokens)
        return replace(self, rows=rows, values=values, tokens=tuple(tokens[place[row]] for row in rows))


def origin_columns(seen: Seen, ranks: Iterable[int], units: Units) -> dict[str, Column]:
    """The columns that say where a record comes from, one entry per row."""
    count = len(seen.rows)
    timestep = np.nan if seen.timestep is None else seen.timestep
    # Last of all columns, and only where a call folds frames or places into its rows.
    folded = {REPEAT_COLUMN: np.array([row.repeat for row in seen.rows])} if seen.folded else {}
    return {
        "step": np.full(count, seen.step),
        "timestep": np.full(count, timestep, dtype=float),
        "evaluation": np.fromiter(ranks, dtype=int, count=count),
        "branch": np.array([row.branch for row in seen.rows], dtype=object),
        "unit": units.column(seen.rows),
        "layer": np.full(count, seen.site.layer, dtype=object),
        "site": np.full(count, site_name(seen.site), dtype=object),
        **folded,
    }
