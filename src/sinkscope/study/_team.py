"""How many processes generate a study's batches, and where.

A batch, in all its arms, is one worker's: arms are compared within a batch. So the number of workers changes
no bit, as long as each of them computes with the same number of threads; on a CPU that number can change the
last bits of matrix products, so it is kept in `study.yaml` and taken from there when a run is resumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from sinkscope.attention import Action, Selector, added_backends
from sinkscope.errors import UsageError
from sinkscope.shapes import EMBEDDED, READERS
from sinkscope.study._plan import Task
from sinkscope.study._resolve import SMALL_BATCH, SMALL_MODEL
from sinkscope.study._study import Study

PAYS = 3000
"""Images times sampler steps from which on workers are started without being asked for. Measured with the
demo's arms on two cores: one process with two threads takes 12.6 ms per image and step, two processes with
one thread each 7.0 ms, and starting these takes 6 s; so they break even at 1,100, and save a fifth here."""
ROOM = 1200 * 2**20
"""Bytes that a worker of the embedded model takes at its peak (920 MiB measured, most of it libraries)."""
BYTES_PER_PARAMETER = 12
"""float32 weights, and twice as much for what is computed from them."""


class Work(NamedTuple):
    """What is left to do."""

    batches: int
    passes: int
    """Images times their sampler steps."""

    @classmethod
    def of(cls, study: Study, todo: Sequence[Task]) -> Work:
        """The work of some tasks."""
        steps = {arm: study.sampling(arm)["steps"] for arm in study.arm_names}
        passes = sum(len(task.batch.units) * steps[task.arm] for task in todo)
        return cls(len({task.batch.index for task in todo}), passes)

    @classmethod
    def whole(cls, study: Study, units: int) -> Work:
        """The work of a new run of a small model on a CPU."""
        steps = sum(study.sampling(arm)["steps"] for arm in study.arm_names)
        return cls(-(-units // (study.batch or SMALL_BATCH)), units * steps)


# ---- what was asked for


def asked(workers: int | None, device: str | None, pipe: Any = None) -> tuple[str, ...] | None:
    """Check what was asked for and say where each worker runs.

    Args:
        workers: How many workers, or None.
        device: A device, or several with commas between them: a worker on each.
        pipe: A loaded pipeline, or None.

    Returns:
        One device per worker; None where the number is left open.

    Raises:
        UsageError: The number or a device is not possible, they do not fit together, or a loaded pipeline
            would have to be handed to another process.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise UsageError(f"Got workers={workers!r}: expected a whole number from 1.")
    names = tuple(part.strip() for part in device.split(",")) if device is not None else ()
    if len(names) > 1:
        _check_several(names, workers)
    if pipe is not None and (several := max(len(names), workers or 1)) > 1:
        raise UsageError(
            f"Got a loaded pipeline (pipe=) and {several} workers, but an object cannot be handed to other "
            "processes. Leave pipe out, so that each worker loads the study's model by its name, or use "
            "workers=1."
        )
    if len(names) > 1:
        return names
    return None if workers is None else _spread(workers, names[0] if names else None)


def _check_several(names: Sequence[str], workers: int | None) -> None:
    joined = ",".join(names)
    kinds = sorted({name.partition(":")[0] for name in names})
    if "" in names or len(kinds) > 1:
        raise UsageError(
            f"Got device={joined!r}: expected devices of one kind, for example 'cuda:0,cuda:1', because "
            "images of one study must come from one kind of device."
        )
    if kinds == ["cpu"]:
        raise UsageError(
            f"Got device={joined!r}: there is one CPU. Use device='cpu' and workers={len(names)}."
        )
    if workers not in (None, len(names)):
        raise UsageError(
            f"Got workers={workers} and {len(names)} devices ({joined}): expected one worker per device. "
            "Leave workers out."
        )
    for name in names:
        check_device(name)


def _spread(workers: int, device: str | None) -> tuple[str, ...]:
    """So many workers on one kind of device."""
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cpu" or workers == 1:
        return (name,) * workers
    check_device(name)
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if index or workers > there:
        raise UsageError(
            f"Got workers={workers} on device={name!r}, but each worker needs a device of its own and there "
            f"{'is 1' if there == 1 else f'are {there}'}. Name one device per worker, for example "
            "device='cuda:0,cuda:1'; one named twice is shared by two workers."
        )
    return tuple(f"{kind}:{number}" for number in range(workers))


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Raises:
        UsageError: Naming it and what there is.
    """
    import torch

    try:
        device = torch.device(name)
        if device.type != "cuda":
            torch.zeros(1, device=device)
            return
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"Device {name!r} cannot be used: {str(error).splitlines()[0].partition('. ')[0]}"
        ) from error
    # Asked without opening the device: that would take memory there in this process too.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count)) or "no CUDA device"
        raise UsageError(f"Device {name!r} is not there; this machine has {there}.")


# ---- what is chosen where nothing was asked for


def known_size(study: Study, record: Mapping[str, Any] | None) -> int | None:
    """Parameters of the model where they are known without loading it; embedded models are small."""
    if record is not None:
        return (record.get("resolved") or {}).get("parameters")
    return 0 if study.model in (*EMBEDDED, *READERS) else None


def automatic(
    work: Work, *, parameters: int, cores: int, threads: int | None = None, memory: int | None = None
) -> int:
    """How many workers generate on a CPU where the user names no number.

    Args:
        work: What is left to do.
        parameters: Of the model with its text encoders. Large models use all cores in one process well.
        cores: Cores this process may use.
        threads: Threads that a resumed run computes with, or None for a new one: then workers have one each.
        memory: Free bytes, where known.
    """
    if parameters >= SMALL_MODEL or work.passes < PAYS:
        return 1
    each = ROOM + BYTES_PER_PARAMETER * parameters
    room = cores if memory is None else memory // each
    return max(1, min(cores // (threads or 1), work.batches, room))


def threads_each(workers: int, cores: int) -> int:
    """Threads of each of some workers that share the cores."""
    return max(1, cores // workers)


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads for a while; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    if threads in (None, before):
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- what another process cannot rebuild


def only_here(study: Study) -> str | None:
    """What of a study exists in this process only, in words; None where a worker can rebuild all of it.

    Workers get plain data and import what is installed: sinkscope, and other packages by their entry points.
    """
    for arm in study.arm_names:
        for edit in study.edits(arm):
            for part in (*_specs(edit.select), *_specs(edit.action)):
                kind = "selector" if isinstance(part, Selector) else "action"
                if not _installed(part, f"sinkscope.{kind}s"):
                    return f"the {kind} {type(part).__name__} of arm {arm!r}"
    for name in added_backends():
        return f"the attention backend {name!r}"
    return None


def _specs(value: Any) -> Iterator[Any]:
    """A selector or action and those it holds."""
    if isinstance(value, (Selector, Action)):
        yield value
        for field in dataclasses.fields(value):  # type: ignore[arg-type]
            yield from _specs(getattr(value, field.name))


def _installed(part: Any, group: str) -> bool:
    kind = type(part)
    if kind.__module__.startswith("sinkscope."):
        return True
    return any(point.name == kind.__name__ and point.load() is kind for point in entry_points(group=group))
