"""One batch in all its arms: images and tables, with the work that arms share done once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.models import Observation, intervene, observe
from sinkscope.models._compare import compare
from sinkscope.models._observation import _ranked
from sinkscope.models._seen import origin_columns
from sinkscope.study import _pipeline
from sinkscope.study._plan import Batch, Plan, Task, Unit
from sinkscope.study._scheduler import sampler
from sinkscope.study._sharing import Sharing
from sinkscope.study._store import FULL_MASS
from sinkscope.study._study import Study
from sinkscope.study._trajectory import Trajectory, recording, replaying


@dataclass
class Done:
    """What one task made."""

    task: Task
    images: list[Any]
    tables: dict[str, pd.DataFrame]
    same_as: str | None = None
    """The arm whose images these are, where every attention call was found to be the same."""


@dataclass
class _Beside:
    """What is done beside one generation of an unedited arm."""

    null: tuple[str, ...] = ()
    """Null arms to compare."""
    late: tuple[str, ...] = ()
    """Arms that will take its first steps."""
    tables: dict[str, list[pd.DataFrame]] = field(default_factory=dict)
    """Null arm -> its receipts, as long as it is the same."""


class Painter:
    """Generates batches.

    Args:
        study: What to run.
        pipe: The pipeline.
        watch: The resolved observation, or None.
        plan: All units and arms.
        shared: What arms take from each other.
        begun: Called with the batch and the arm before each generation.
    """

    def __init__(
        self,
        study: Study,
        pipe: Any,
        watch: Mapping[str, Any] | None,
        plan: Plan,
        shared: Sharing,
        begun: Callable[[Batch, str], None] | None = None,
    ) -> None:
        self._study, self._pipe, self._watch, self._shared = study, pipe, watch, shared
        self._begun = begun
        self._watched = watched_units(plan, watch)
        self.arm = plan.arms[0]
        """The arm that is generated now."""

    def batch(self, batch: Batch, arms: Sequence[str], size: int) -> Iterator[Done]:
        """Run a batch in some arms, `size` units at once.

        Yields:
            Each finished task; null arms behind the arm they were compared with.
        """
        null = {arm: self._shared.null[arm] for arm in arms if arm in self._shared.null}
        kept: dict[str, list[Trajectory]] = {}
        compared: set[str] = set()
        # A null arm left over from a cut-off run has to see its unedited arm once more.
        sources = [arm for arm in dict.fromkeys(null.values()) if arm not in arms]
        for arm in (*sources, *arms):
            if arm in compared:
                continue
            self.arm = arm
            if self._begun is not None:
                self._begun(batch, arm)
            beside = _Beside(
                tuple(name for name, source in null.items() if source == arm),
                tuple(name for name in arms if self._shared.late.get(name) == arm and arm in arms),
            )
            images, tables, kept[arm] = self._arm(batch, arm, size, beside, kept)
            if arm in arms:
                yield Done(Task(batch, arm), images, tables)
            for name, receipts in beside.tables.items():
                compared.add(name)
                table = pd.concat(receipts, ignore_index=True) if len(receipts) > 1 else receipts[0]
                yield Done(Task(batch, name), images, {"receipts": table}, arm)

    def _arm(
        self, batch: Batch, arm: str, size: int, beside: _Beside, kept: Mapping[str, list[Trajectory]]
    ) -> tuple[list[Any], dict[str, pd.DataFrame], list[Trajectory]]:
        """One batch in one arm; also the trajectories of its chunks."""
        source = kept.get(self._shared.late.get(arm, ""), [])
        images: list[Any] = []
        tables: list[dict[str, pd.DataFrame]] = []
        trajectories: list[Trajectory] = []
        beside.tables = {name: [] for name in beside.null}
        for number, units in enumerate(chunks(batch.units, size)):
            with ExitStack() as stack:
                # Before anything listens to the scheduler.
                stack.enter_context(sampler(self._pipe, self._study.sampling(arm)["scheduler"]))
                if number < len(source):
                    stack.enter_context(replaying(self._pipe, source[number], self._study.edits(arm)))
                if beside.late:
                    late = [self._study.edits(name) for name in beside.late]
                    trajectories.append(stack.enter_context(recording(self._pipe, late)))
                found = {name: stack.enter_context(self._compare(name, units)) for name in beside.tables}
                made, table = self._paint(arm, units)
            images += made
            tables.append(table)
            for name, comparison in found.items():
                if comparison.same:
                    beside.tables[name].append(_labelled(comparison.receipt.table(), name))
                else:
                    del beside.tables[name]
        return images, _stacked(tables), trajectories

    def _compare(self, arm: str, units: Sequence[Unit]) -> Any:
        return compare(self._pipe, self._study.edits(arm), units=[unit.id for unit in units])

    def _paint(self, arm: str, units: Sequence[Unit]) -> tuple[list[Any], dict[str, pd.DataFrame]]:
        names, watch, watched = [unit.id for unit in units], self._watch, self._watched
        edits = self._study.edits(arm)
        inside = watch is not None and not watched.isdisjoint(names)
        looking = inside and watch is not None and arm in watch["arms"]
        treated = any(edit.control_info is None for edit in edits)
        replaced = watch["replacements"] if inside and treated and watch is not None else 0
        with ExitStack() as stack:
            mode: Any = "full" if replaced else True
            receipt = stack.enter_context(
                intervene(self._pipe, list(edits), units=names, receipt=mode, split=self._study.split)
            )
            seen = None
            if looking and watch is not None:
                block = observe(self._pipe, watch["layers"], kind=watch["kind"], units=names)
                seen = stack.enter_context(block)
            images = _pipeline.paint(self._pipe, self._study, units, arm)
        tables: dict[str, pd.DataFrame] = {}
        if edits:
            tables["receipts"] = _labelled(receipt.table(), arm)
        if replaced:
            tables["replacements"] = _of_units(receipt.replacements(replaced), watched, arm)
            tables["takeover"] = _of_units(receipt.takeover(), watched, arm)
        if seen is not None and watch is not None:
            tables["traces"] = _of_units(seen.sinks(keys_per_head=watch["keys_per_head"]), watched, arm)
            tables["summary"] = _of_units(seen.summary(), watched, arm)
            tables["roles"] = _of_units(seen.roles(), watched, arm)
            if watch.get("full_mass"):
                tables[FULL_MASS] = _of_units(every_mass(seen), watched, arm)
        return images, tables


def every_mass(seen: Observation) -> pd.DataFrame:
    """The mass of every key: a row per call, row and head, and in `mass` a list in key order (float32)."""
    parts = []
    for record, ranks in _ranked(seen._records()):
        mass = record.values["mass"].numpy()
        heads = mass.shape[1]
        origin = origin_columns(record, ranks, seen._units)
        part = pd.DataFrame({name: np.repeat(column, heads) for name, column in origin.items()})
        part["head"] = np.tile(np.array(record.heads), mass.shape[0])
        part["queries"] = record.queries
        part["mass"] = pd.Series(list(mass.reshape(-1, mass.shape[2])), dtype=object)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def chunks(units: Sequence[Unit], size: int) -> list[Sequence[Unit]]:
    """Units in groups of `size`, the last one possibly smaller."""
    return [units[start : start + size] for start in range(0, len(units), size)]


def watched_units(plan: Plan, watch: Mapping[str, Any] | None) -> frozenset[str]:
    """Ids of the units whose attention is recorded."""
    if watch is None:
        return frozenset()
    return frozenset(unit.id for unit in plan.units[: watch["units"]])


def _stacked(tables: Sequence[dict[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables of several chunks below each other."""
    if len(tables) == 1:
        return tables[0]
    names = dict.fromkeys(name for each in tables for name in each)
    return {
        name: pd.concat([each[name] for each in tables if name in each], ignore_index=True) for name in names
    }


def _of_units(frame: pd.DataFrame, watched: frozenset[str], arm: str) -> pd.DataFrame:
    return _labelled(frame[frame["unit"].isin(watched)].reset_index(drop=True), arm)


def _labelled(frame: pd.DataFrame, arm: str) -> pd.DataFrame:
    return frame.assign(arm=arm)
