"""The first stage of a run: settle what the study leaves open, then generate what is missing.

One process does both, or a crew of worker processes (`_team.py` says which): then no model is loaded here,
one worker settles, and all of them generate.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sinkscope.errors import UsageError
from sinkscope.study import _generate, _machine, _record, _team
from sinkscope.study._plan import Task, make_plan
from sinkscope.study._prepare import prepare
from sinkscope.study._store import Store
from sinkscope.study._study import Study


def complete(
    store: Store,
    study: Study,
    prompts: Sequence[Any],
    record: dict[str, Any] | None,
    *,
    progress: bool,
    device: str | None,
    pipe: Any,
    workers: int | None,
) -> dict[str, Any]:
    """Do what is missing of the first stage.

    Args:
        store: The run folder, locked.
        study: What to run.
        prompts: Its prompts.
        record: `study.yaml`, or None for a new run.
        progress: Show progress.
        device: As for `run`.
        pipe: A loaded pipeline, or None.
        workers: As for `run`.

    Returns:
        The record of the run.
    """
    todo: list[Task] | None = None
    if record is not None:
        todo = _generate.unfinished(store, make_plan(study, prompts, record["resolved"]["batch"]))
        if not todo:
            return record
    first = device or (record or {}).get("resolved", {}).get("device") or default_device()
    places = _team.asked(workers, first, pipe)
    made: dict[str, Any] | None = None
    if places is None:
        places = (first,)
        if pipe is None and first.startswith("cpu") and _team.only_here(study) is None:
            size = _team.known_size(study, record)
            if size is None:
                pipe = _load(study.model, first)
                made = prepare(pipe, study, prompts, new=record is None)
                size = made["parameters"]
            places *= _number(study, record, todo, prompts, size)
    elif len(places) > 1 and (what := _team.only_here(study)):
        raise UsageError(
            f"Got {len(places)} workers, but {what} was made in this process, and other processes cannot "
            "import it. Put it into an installed package and name it in its entry points "
            "(sinkscope.selectors, sinkscope.actions), or use workers=1."
        )
    if len(places) > 1:
        del pipe
        return _together(store, study, prompts, record, places, made, todo, show=progress)
    if pipe is None:
        pipe = _load(study.model, places[0])
    made = made or prepare(pipe, study, prompts, new=record is None)
    record = _settle(store, study, prompts, record, made, show=progress)
    plan = make_plan(study, prompts, record["resolved"]["batch"])
    with _team.computing_with(_threads(record)):
        _generate.generate(
            store, study, plan, pipe, record, todo or _generate.unfinished(store, plan), show=progress
        )
    return record


def _number(
    study: Study, record: dict[str, Any] | None, todo: list[Task] | None, prompts: Sequence[Any], size: int
) -> int:
    """How many workers to start where the user leaves it open."""
    if record is None or todo is None:
        work = _team.Work.whole(study, len(prompts) * len(study.seeds))
    else:
        work = _team.Work.of(study, todo)
    return _team.automatic(
        work,
        parameters=size,
        cores=_machine.cores(),
        threads=None if record is None else _threads(record),
        memory=_machine.free_memory(),
    )


def _together(
    store: Store,
    study: Study,
    prompts: Sequence[Any],
    record: dict[str, Any] | None,
    places: Sequence[str],
    made: dict[str, Any] | None,
    todo: list[Task] | None,
    *,
    show: bool,
) -> dict[str, Any]:
    """Let workers do it, one per place."""
    from sinkscope.study._crew import Crew

    # No more of them than there can be batches.
    places = places[: len(prompts) * len(study.seeds)]
    with Crew(study.model, places) as crew:
        made = made or crew.prepare(study, prompts, new=record is None)
        if record is None:
            batches = len(make_plan(study, prompts, made["resolved"]["batch"]).batches())
            threads = _team.threads_each(min(len(places), batches), _machine.cores())
            made["resolved"]["threads"] = threads
        record = _settle(store, study, prompts, record, made, show=show)
        plan = make_plan(study, prompts, record["resolved"]["batch"])
        threads = _threads(record) or _team.threads_each(len(places), _machine.cores())
        crew.generate(store, plan, todo or _generate.unfinished(store, plan), threads=threads, show=show)
    return record


def _settle(
    store: Store,
    study: Study,
    prompts: Sequence[Any],
    record: dict[str, Any] | None,
    made: dict[str, Any],
    *,
    show: bool,
) -> dict[str, Any]:
    """Write the record of a new run, or see that an old one may be continued like this."""
    if record is None:
        record = _record.new_record(study, prompts, made["resolved"], made["weights"])
        record |= {"shared": made["shared"]}
        store.write_record(record)
        return record
    _record.refuse_other_model(store.folder, record, made["weights"], made["device"])
    return _continued(store, record, show=show)


def _threads(record: dict[str, Any]) -> int | None:
    """Threads that a run on a CPU computes with; None on other devices and in runs that do not say."""
    resolved = record["resolved"]
    return resolved.get("threads") if resolved.get("device") == "cpu" else None


def _continued(store: Store, record: dict[str, Any], *, show: bool) -> dict[str, Any]:
    """Say and write down that the rest of a run is made with other packages, which may round differently."""
    changed = _record.changed_versions(record)
    if not changed:
        return record
    if show:
        words = ", ".join(f"{name} {change}" for name, change in changed.items())
        print(f"note: {store.folder} was started with other versions ({words})", file=sys.stderr)
    record = {**record, "continued_with": changed}
    store.write_record(record)
    return record


def default_device() -> str:
    """A GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(model: str, device: str) -> Any:
    from sinkscope.models import load

    return load(model, device=device)
