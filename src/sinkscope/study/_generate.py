"""The first stage: images and attention tables of every task that is not finished.

Every arm, the baseline included, runs inside `intervene`; the baseline's list of edits is empty. What is
recorded of the attention is read beside it and changes no bit of the images. What arms share (`_sharing.py`)
and how prompts are encoded (`_encodings.py`) changes none either, nor does which process runs a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch

from sinkscope.errors import SinkscopeError
from sinkscope.study._encodings import FOLDER, Encodings, forget
from sinkscope.study._memory import is_out_of_memory, release
from sinkscope.study._painting import Done, Painter, chunks
from sinkscope.study._pipeline import paint
from sinkscope.study._plan import Batch, Plan, Task
from sinkscope.study._progress import Meter
from sinkscope.study._scheduler import sampler
from sinkscope.study._sharing import Sharing, halved
from sinkscope.study._store import Store
from sinkscope.study._study import Study
from sinkscope.study._writer import Writer


def unfinished(store: Store, plan: Plan) -> list[Task]:
    """Tasks that are missing or damaged, in plan order."""
    return [task for task in plan.tasks() if not store.is_done(task)]


def generate(
    store: Store,
    study: Study,
    plan: Plan,
    pipe: Any,
    record: Mapping[str, Any],
    todo: Sequence[Task],
    *,
    show: bool,
) -> None:
    """Run every task of `todo` in this process.

    Args:
        store: Where results go.
        study: What to run.
        plan: All units and arms.
        pipe: The pipeline.
        record: The record of the run.
        todo: Tasks to run, as from `unfinished`.
        show: Show progress.

    Raises:
        SinkscopeError: With the arm and batch it happened in; all finished tasks are kept.
    """
    with meter_of(plan, todo, show=show) as meter:
        make(store, study, plan, pipe, record, batches_of(todo), ahead=todo, meter=meter)
    forget(store.folder)


def batches_of(todo: Sequence[Task]) -> list[list[Task]]:
    """Tasks by their batch."""
    return [list(group) for _, group in groupby(todo, key=lambda task: task.batch.index)]


def meter_of(plan: Plan, todo: Sequence[Task], *, show: bool) -> Meter:
    """The meter of this stage."""
    missing = sum(len(task.batch.units) for task in todo)
    return Meter("generate", plan.images, plan.images - missing, show=show)


class Listener(Protocol):
    """What hears how far it is: a `Meter`, or in a worker what tells the one of the first process."""

    def advance(self, count: int = 1) -> None:
        """Images were finished, or taken back."""

    def note(self, text: str) -> None:
        """Something to say once."""

    def kept(self) -> str:
        """How many images are there, as a sentence."""


def make(
    store: Store,
    study: Study,
    plan: Plan,
    pipe: Any,
    record: Mapping[str, Any],
    batches: Iterable[list[Task]],
    *,
    ahead: Sequence[Task],
    meter: Listener,
    begun: Callable[[Batch, str], None] | None = None,
) -> None:
    """Run some tasks.

    Args:
        store: Where results go.
        study: What to run.
        plan: All units and arms.
        pipe: The pipeline.
        record: The record of the run: what is observed and shared, hashes of the weights.
        batches: The missing tasks of one batch after the other; asked for the next when one is generated.
        ahead: Tasks whose prompts are encoded first where text encoders leave the device then.
        meter: Hears of every finished task.
        begun: Called with batch and arm before each generation.

    Raises:
        SinkscopeError: With the arm and batch it happened in; all finished tasks are kept.
    """
    encodings = Encodings(store.folder / FOLDER, pipe, record["weights"])
    painter = Painter(study, pipe, record["resolved"]["observe"], plan, Sharing.recorded(record), begun)
    with encodings.installed(), Writer() as writer:
        _leave(encodings, study, plan, pipe, ahead)
        for tasks in batches:
            _batch(store, plan, painter, tasks, meter, writer)
        writer.drain()


def _batch(
    store: Store, plan: Plan, painter: Painter, tasks: list[Task], meter: Listener, writer: Writer
) -> None:
    """Run the missing tasks of one batch, with fewer units at once where memory does not suffice."""
    batch = tasks[0].batch
    size = min(chunk_of(store, plan, batch), len(batch.units))
    while True:
        failed = _attempt(store, painter, tasks, size, meter, writer)
        if failed is None:
            return
        release()
        if size == 1:
            raise SinkscopeError(
                f"Out of memory in arm {failed!r} with one unit at a time. Use a smaller image size, half "
                f"precision, or a device with more memory. {meter.kept()}"
            )
        meter.note(
            f"note: out of memory in arm {failed!r} with {size} units at once; batch {batch.index} starts "
            f"again with {(size + 1) // 2}, in every arm"
        )
        size = (size + 1) // 2
        # Arms differ by their edit alone only if all of them see batches of one shape.
        tasks = [Task(batch, arm) for arm in plan.arms]
        for task in tasks:
            if store.forget(task):
                meter.advance(-len(batch.units))


def _attempt(
    store: Store, painter: Painter, tasks: Sequence[Task], size: int, meter: Listener, writer: Writer
) -> str | None:
    """Run tasks of one batch, `size` units at once; returns the arm that memory did not suffice for."""
    batch = tasks[0].batch
    painting = painter.batch(batch, [task.arm for task in tasks], size)
    while True:
        try:
            done = next(painting, None)
        except Exception as error:
            writer.drain()
            arm = painter.arm
            if is_out_of_memory(error):
                return arm
            if isinstance(error, SinkscopeError):
                error.add_note(f"In arm {arm!r}, batch {batch.index}. {meter.kept()}")
            raise
        if done is None:
            return None
        writer.put(_saving(store, done, size, meter))


def _saving(store: Store, done: Done, size: int, meter: Listener) -> Callable[[], None]:
    how: dict[str, Any] = {} if done.same_as is None else {"same_as": done.same_as}
    if size < len(done.task.batch.units):
        how["chunk"] = size

    def save() -> None:
        store.save_task(done.task, done.images, done.tables, how)
        meter.advance(len(done.images))

    return save


def chunk_of(store: Store, plan: Plan, batch: Batch) -> int:
    """How many units of a batch to run at once: as its finished arms did, else as memory sufficed before."""
    here = [store.marker(Task(batch, arm)) for arm in plan.arms]
    finished = [marker for marker in here if marker is not None]
    if finished:
        return min(int(marker.get("chunk", plan.batch_size)) for marker in finished)
    return min([plan.batch_size, *halved(store, plan).values()])


def _leave(encodings: Encodings, study: Study, plan: Plan, pipe: Any, todo: Sequence[Task]) -> None:
    """On a GPU encode every prompt first and take the text encoders off the device."""
    if not encodings.possible or not encoders_leave(pipe):
        return
    # Guidance decides whether negative prompts are encoded; the rest of the sampling does not matter here.
    kinds = {str(study.sampling(task.arm)["guidance"]): task.arm for task in todo}
    for arm in kinds.values():
        for batch in {task.batch.index: task.batch for task in todo}.values():
            for units in chunks(batch.units, plan.batch_size):
                with sampler(pipe, study.sampling(arm)["scheduler"]):
                    encodings.fill(partial(paint, pipe, study, units, arm))
    encodings.park()


def encoders_leave(pipe: Any) -> bool:
    """Whether the text encoders take memory that the denoiser could use."""
    return torch.device(pipe.device).type != "cpu"
