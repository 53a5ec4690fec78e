"""What a run says about its sinks: the tables of `sinkscope.identity`, made from the files of the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from sinkscope import identity
from sinkscope.errors import UsageError, unknown
from sinkscope.identity._compensation import budgets_of
from sinkscope.study import _files
from sinkscope.study._plan import Task
from sinkscope.study._store import FULL_MASS, Store

if TYPE_CHECKING:
    from sinkscope.study._plan import Plan
    from sinkscope.study._study import Study


class SinkTables:
    """The part of `Run` that is about sinks; intervals have the level of the study.

    `sinks`, `identity`, `overlap`, `compensation` and `takers` raise `UsageError` where the study did not
    record what they are made of.
    """

    _store: Store
    plan: Any
    study: Any

    def roles(self) -> pd.DataFrame:
        """Mass by segment and role (`Observation.roles`), with unit and arm."""
        return self._store.table("roles")

    def takeover(self) -> pd.DataFrame:
        """Which segments and roles took the mass over (`Receipt.takeover`), with unit and arm; may be
        empty."""
        return self._store.table("takeover")

    def full_mass(self, arm: str = "baseline", unit: str | None = None) -> pd.DataFrame:
        """Mass of every key, where the study's `observe` asks for it (`full_mass`).

        Args:
            arm: A watched arm.
            unit: One unit; None for all, which may be large.

        Returns:
            One row per call, row and head: `step timestep evaluation branch unit layer site head queries mass
            arm`; `mass` holds float32 arrays in key order that sum to one.

        Raises:
            UsageError: There is no such arm or unit, or the study did not record it.
        """
        plan: Plan = self.plan
        for kind, name, known in (("arm", arm, plan.arms), ("unit", unit, [u.id for u in plan.units])):
            if name is not None and name not in known:
                raise unknown(kind, name, known)
        tasks = [
            Task(batch, arm)
            for batch in plan.batches()
            if unit is None or unit in [other.id for other in batch.units]
        ]
        frames = [
            _files.read_table(self._store.shard(task) / f"{FULL_MASS}.parquet")
            for task in tasks
            if FULL_MASS in (self._store.marker(task) or {"tables": {}})["tables"]
        ]
        frames = [frame if unit is None else frame[frame["unit"] == unit] for frame in frames]
        if not any(len(frame) for frame in frames):
            raise UsageError(
                f"The mass of every key was not recorded for arm {arm!r}"
                + ("" if unit is None else f" and unit {unit!r}")
                + ". Run a study with observe: {full_mass: true} (and this arm in observe.arms) into another "
                "folder."
            )
        return pd.concat(frames, ignore_index=True)

    def sinks(self) -> pd.DataFrame:
        """Every sink that was seen, with its identity and how long it stays (`identity.persistence`)."""
        return identity.persistence(self._recorded("traces"))

    def identity(
        self, by: Sequence[str] = ("branch",), parts: Sequence[str] = ("segment", "role")
    ) -> pd.DataFrame:
        """Shares of sinks, mass and keys by segment and role (`sinkscope.identity.identity`).

        Args:
            by: What is told apart: of `branch`, `layer`, `site`, `step`.
            parts: What makes a kind: of `segment`, `role`, `encoder`, `kind` and `class`.
        """
        traces, roles = self._recorded("traces"), self._recorded("roles")
        level = self.study.level
        return identity.identity(traces, roles, units=self._units(), by=by, parts=parts, level=level)

    def overlap(self, *, pairs: bool = False) -> pd.DataFrame:
        """How far sets of sinks agree between steps, layers, branches, seeds and prompts, beside chance.

        Args:
            pairs: Tell every pair of steps and of layers (`identity.overlap_pairs`) instead of their means
                with intervals (`identity.overlap`).
        """
        traces, units = self._recorded("traces"), self._units()
        if pairs:
            return identity.overlap_pairs(traces, units=units)
        return identity.overlap(traces, units=units, level=self.study.level)

    def compensation(self) -> pd.DataFrame:
        """How much mass each edit removes, who takes most of it, and what grows later
        (`identity.compensation`); arms whose replacements were recorded."""
        study: Study = self.study
        budgets = budgets_of({arm: study.edits(arm) for arm in study.arm_names})
        return identity.compensation(
            self._recorded("receipts"),
            self._recorded("replacements"),
            summary=self._store.table("summary"),
            budgets=budgets,
            units=self._units(),
            level=study.level,
        )

    def takers(
        self, by: Sequence[str] = ("branch",), parts: Sequence[str] = ("segment", "role")
    ) -> pd.DataFrame:
        """Which segments and roles lose and gain when keys are removed (`identity.takers`)."""
        level = self.study.level
        return identity.takers(
            self._recorded("takeover"), units=self._units(), by=by, parts=parts, level=level
        )

    def _recorded(self, name: str) -> pd.DataFrame:
        """A table with rows.

        Raises:
            UsageError: The study recorded none.
        """
        frame = self._store.table(name)
        if not len(frame):
            wanted = {"replacements": "observe.replacements of 1 or more", "receipts": "an arm with an edit"}
            wanted["takeover"] = wanted["replacements"]
            raise UsageError(
                f"{name}.parquet has no rows: the study did not record them. Run a study with "
                f"{wanted.get(name, 'an observe plan')} into another folder."
            )
        return frame

    def _units(self) -> pd.DataFrame:
        plan: Plan = self.plan
        rows = [(unit.id, unit.prompt.id, unit.seed) for unit in plan.units]
        return pd.DataFrame(rows, columns=["unit", "prompt_id", "seed"])
