"""The first stage: images and attention tables of every task that is not finished.

Every arm, the baseline included, runs inside `intervene`; the baseline's list of edits is empty. What is
recorded of the attention is read beside it and changes no bit of the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pandas as pd
import torch

from sinkscope.errors import SinkscopeError
from sinkscope.models import intervene, observe
from sinkscope.study._pipeline import paint
from sinkscope.study._plan import Plan, Task
from sinkscope.study._progress import Meter
from sinkscope.study._scheduler import sampler
from sinkscope.study._store import Store
from sinkscope.study._study import Study


def unfinished(store: Store, plan: Plan) -> list[Task]:
    """Tasks that are missing or damaged, in plan order."""
    return [task for task in plan.tasks() if not store.is_done(task)]


def generate(
    store: Store,
    study: Study,
    plan: Plan,
    pipe: Any,
    *,
    todo: Sequence[Task],
    watch: Mapping[str, Any] | None,
    show: bool,
) -> None:
    """Run every task of `todo`.

    Args:
        store: Where results go.
        study: What to run.
        plan: All units and arms.
        pipe: The pipeline.
        todo: Tasks to run, as from `unfinished`.
        watch: The resolved observation (`resolve()["observe"]`), or None.
        show: Show progress.

    Raises:
        SinkscopeError: With the arm and batch it happened in; all finished tasks are kept.
    """
    missing = sum(len(task.batch.units) for task in todo)
    watched = watched_units(plan, watch)
    with Meter("generate", plan.images, plan.images - missing, show=show) as meter:
        for task in todo:
            try:
                images, tables = run_task(study, task, pipe, watch=watch, watched=watched)
            except torch.OutOfMemoryError as error:
                raise SinkscopeError(
                    f"Out of memory in arm {task.arm!r} with {len(task.batch.units)} units per batch. Start "
                    "in a new "
                    f"folder with a smaller batch. {meter.done} images are kept."
                ) from error
            except SinkscopeError as error:
                error.add_note(
                    f"In arm {task.arm!r}, batch {task.batch.index}. {meter.done} images are kept."
                )
                raise
            store.save_task(task, images, tables)
            meter.advance(len(images))


def watched_units(plan: Plan, watch: Mapping[str, Any] | None) -> frozenset[str]:
    """Ids of the units whose attention is recorded."""
    if watch is None:
        return frozenset()
    return frozenset(unit.id for unit in plan.units[: watch["units"]])


def run_task(
    study: Study, task: Task, pipe: Any, *, watch: Mapping[str, Any] | None, watched: frozenset[str]
) -> tuple[list[Any], dict[str, pd.DataFrame]]:
    """Generate one batch in one arm; returns its images and its tables."""
    units = [unit.id for unit in task.batch.units]
    edits = study.edits(task.arm)
    inside = watch is not None and not watched.isdisjoint(units)
    looking = inside and watch is not None and task.arm in watch["arms"]
    treated = any(edit.control_info is None for edit in edits)
    replaced = watch["replacements"] if inside and treated and watch is not None else 0
    with ExitStack() as stack:
        mode: Any = "full" if replaced else True
        # Before anything listens to the scheduler.
        stack.enter_context(sampler(pipe, study.sampling(task.arm)["scheduler"]))
        receipt = stack.enter_context(intervene(pipe, list(edits), units=units, receipt=mode))
        seen = stack.enter_context(_watch(pipe, watch, units)) if looking and watch is not None else None
        images = paint(pipe, study, task.batch.units, task.arm)
    tables: dict[str, pd.DataFrame] = {}
    if edits:
        tables["receipts"] = _labelled(receipt.table(), task.arm)
    if replaced:
        tables["replacements"] = _of_units(receipt.replacements(replaced), watched, task.arm)
        tables["takeover"] = _of_units(receipt.takeover(), watched, task.arm)
    if seen is not None and watch is not None:
        tables["traces"] = _of_units(seen.sinks(keys_per_head=watch["keys_per_head"]), watched, task.arm)
        tables["summary"] = _of_units(seen.summary(), watched, task.arm)
        tables["roles"] = _of_units(seen.roles(), watched, task.arm)
    return images, tables


def _watch(pipe: Any, watch: Mapping[str, Any], units: list[str]) -> Any:
    return observe(pipe, watch["layers"], kind=watch["kind"], units=units)


def _of_units(frame: pd.DataFrame, watched: frozenset[str], arm: str) -> pd.DataFrame:
    return _labelled(frame[frame["unit"].isin(watched)].reset_index(drop=True), arm)


def _labelled(frame: pd.DataFrame, arm: str) -> pd.DataFrame:
    return frame.assign(arm=arm)
