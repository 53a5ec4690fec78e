"""Who the sinks of a run are: the tables of `sinkscope.identity`, computed once for the words, the figures
and the tables of the page. Only the baseline arm is described, and of the edited arms who takes the mass
over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sinkscope import identity
from sinkscope.identity import compensation, overlap, overlap_pairs, persistence, takers
from sinkscope.report import _dynamics as dynamics
from sinkscope.report._arms import Arm
from sinkscope.report._data import RunData

NEEDED = ("step", "layer", "site", "head", "key", "mass", "times_uniform", "segment")


@dataclass(frozen=True, eq=False)
class Facts:
    """Tables about the sinks of one run; None where the run did not record what they are made of."""

    data: RunData
    arms: Mapping[str, Arm]

    @cached_property
    def sinks(self) -> pd.DataFrame | None:
        """The baseline's sinks as its image queries (or its only ones) see them, with their history."""
        traces = self._rows("traces")
        if traces is None or [name for name in NEEDED if name not in traces.columns]:
            return None
        rows = traces[traces["queries"] == dynamics.query_group(traces)] if "queries" in traces else traces
        return persistence(rows)

    @cached_property
    def roles(self) -> pd.DataFrame | None:
        """The baseline's mass by segment and role."""
        return self._rows("roles")

    def _rows(self, name: str) -> pd.DataFrame | None:
        frame = self.data.table(name)
        rows = None if frame is None else dynamics.baseline_rows(frame)
        return rows if rows is not None and len(rows) else None

    @cached_property
    def units(self) -> pd.DataFrame:
        """Prompt and seed of every unit: from the scores where they say it, else from its name."""
        names = [frame["unit"].astype(str) for frame in self.data.tables.values() if "unit" in frame.columns]
        every = pd.unique(pd.concat(names, ignore_index=True)) if names else np.array([], dtype=object)
        parts = [str(name).rpartition("-s") for name in every]
        table = pd.DataFrame(
            {
                "unit": every,
                "prompt_id": [part[0] or part[2] for part in parts],
                "seed": [int(part[2]) if part[2].isdigit() else 0 for part in parts],
            }
        ).set_index("unit")
        scores = self.data.table("scores")
        if scores is not None and {"prompt_id", "seed"} <= set(scores.columns):
            known = scores.assign(unit=scores["unit"].astype(str)).drop_duplicates("unit").set_index("unit")
            table["prompt_id"] = (
                known["prompt_id"].astype(str).reindex(table.index).fillna(table["prompt_id"])
            )
            table["seed"] = known["seed"].reindex(table.index).fillna(table["seed"])
        return table.reset_index()

    @property
    def branches(self) -> list[str]:
        """Sides of guidance, the conditional one first."""
        return [] if self.sinks is None else dynamics.branches(self.sinks)

    @property
    def keys_per_head(self) -> int:
        """How many sinks of a head were recorded."""
        return 1 if self.sinks is None else int(self.sinks["rank"].max()) + 1

    @cached_property
    def shares(self) -> pd.DataFrame:
        """Shares by class and branch, with intervals."""
        return identity.identity(self.sinks, self.roles, units=self.units, parts=("class",))

    @cached_property
    def text_shares(self) -> pd.DataFrame | None:
        """The same among the sinks that are text; None where there are none."""
        if self.sinks is None or not len(rows := self.sinks[self.sinks["segment"] == "text"]):
            return None
        return identity.identity(rows, units=self.units, parts=("class",))

    @cached_property
    def kinds(self) -> pd.DataFrame:
        """Shares by kind and branch, with intervals."""
        return identity.identity(self.sinks, self.roles, units=self.units, parts=("kind",))

    @cached_property
    def over_steps(self) -> pd.DataFrame:
        """Shares by kind for each branch, site and step."""
        by = ("branch", "layer", "site", "step")
        return identity.identity(self.sinks, self.roles, units=self.units, by=by, parts=("kind",), level=None)

    @cached_property
    def overlaps(self) -> pd.DataFrame:
        """Agreement of sets of sinks, with intervals."""
        if self.sinks is None:
            return pd.DataFrame()
        return overlap(self.sinks, units=self.units)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Agreement of every pair of steps and of layers."""
        if self.sinks is None:
            return pd.DataFrame()
        return overlap_pairs(self.sinks, units=self.units)

    @cached_property
    def takers(self) -> pd.DataFrame | None:
        """Who loses and gains in the arms that remove sinks."""
        frame = self.data.table("takeover")
        if frame is None:
            return None
        rows = frame[frame["arm"].isin(self._sink_arms)]
        table = takers(rows, units=self.units, parts=("kind",)) if len(rows) else pd.DataFrame()
        return table if len(table) else None

    @cached_property
    def compensation(self) -> pd.DataFrame | None:
        """How heavy the next key is, in the arms that remove sinks."""
        receipts, gains = self.data.table("receipts"), self.data.table("replacements")
        if receipts is None or gains is None or "edit" not in receipts or "edit" not in gains:
            return None
        gains = gains[gains["arm"].isin(self._sink_arms)]
        if not len(gains):
            return None
        table = compensation(
            receipts, gains, summary=self.data.table("summary"), budgets=self._budgets, units=self.units
        )
        return table if len(table) else None

    @property
    def _sink_arms(self) -> list[str]:
        return [name for name, arm in self.arms.items() if arm.role == "sink"]

    @property
    def _budgets(self) -> dict[str, int]:
        known = {name: self.arms[name] for name in self._sink_arms}
        return {
            name: arm.budget
            for name, arm in known.items()
            if arm.budget is not None and arm.budget_kind == "keys_per_head"
        }
