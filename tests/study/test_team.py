"""How many workers there are and where: what may be asked for, what is chosen, what cannot leave."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.study.small import SINK, tiny_study
from tests.tiny import tiny_sd3
from torch import Tensor

import sinkscope.study._pipeline as painting
from sinkscope.attention import Mask, SelectionContext, Selector, Within, _backends, _selectors
from sinkscope.cli import main
from sinkscope.errors import UsageError
from sinkscope.models import Edit
from sinkscope.study import (
    Arm,
    Run,
    Study,
    _complete,
    _generate,
    _machine,
    _team,
    make_plan,
    resolve_prompts,
    run,
)
from sinkscope.study._store import Store
from sinkscope.study._team import PAYS, ROOM, Work, asked, automatic, computing_with, only_here, threads_each
from sinkscope.study.demo import demo

GIB = 2**30
DEMO = 96 * 9 * 20


@dataclass(frozen=True)
class FirstKey(Selector):
    """A selector of this file."""

    def choose(self, ctx: SelectionContext) -> Tensor:
        raise AssertionError("never asked")


@pytest.mark.parametrize(
    ("batches", "passes", "cores", "threads", "memory", "parameters", "expected"),
    [
        (12, DEMO, 2, None, 16 * GIB, 5_000_000, 2),
        (12, DEMO, 16, None, None, 5_000_000, 12),  # never more than batches
        (12, DEMO, 16, None, 6 * GIB, 5_000_000, 4),  # nor than fit into memory
        (12, DEMO, 16, None, GIB, 5_000_000, 1),
        (12, DEMO, 1, None, 16 * GIB, 5_000_000, 1),
        (12, PAYS, 2, None, 16 * GIB, 5_000_000, 2),
        (12, PAYS - 1, 2, None, 16 * GIB, 5_000_000, 1),
        (1, DEMO, 2, None, 16 * GIB, 5_000_000, 1),
        (12, DEMO, 2, None, 64 * GIB, 200_000_000, 1),  # a large model
        (12, DEMO, 2, 2, 16 * GIB, 5_000_000, 1),  # resumed: as many threads as before
        (12, DEMO, 8, 2, 16 * GIB, 5_000_000, 4),
        (12, DEMO, 2, 1, 16 * GIB, 5_000_000, 2),
        (12, DEMO, 2, 16, 16 * GIB, 5_000_000, 1),
    ],
)
def test_workers_are_chosen_by_work_cores_and_memory(
    batches: int, passes: int, cores: int, threads: Any, memory: Any, parameters: int, expected: int
) -> None:
    work = Work(batches, passes)
    found = automatic(work, parameters=parameters, cores=cores, threads=threads, memory=memory)
    assert found == expected


def test_the_demo_is_worth_workers_and_the_quick_one_is_not() -> None:
    works = []
    for quick in (False, True):
        study = demo(quick=quick)
        works.append(Work.whole(study, len(resolve_prompts(study))))
    assert works == [Work(12, DEMO), Work(3, 24 * 4 * 10)]
    assert [automatic(work, parameters=0, cores=2, memory=4 * ROOM) for work in works] == [2, 1]


def test_what_is_left_is_counted_with_each_arm_s_own_steps() -> None:
    study = tiny_study(arms={"sink": SINK, "more": Arm(steps=7)}, margins={}, metrics=())
    plan = make_plan(study, resolve_prompts(study), 2)
    tasks = list(plan.tasks())
    assert Work.of(study, tasks) == Work(3, 5 * (2 + 2 + 7))
    assert Work.of(study, tasks[-2:]) == Work(1, 2 + 7)  # the last batch holds one unit


def test_workers_share_the_cores() -> None:
    assert [threads_each(workers, 8) for workers in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]


def test_threads_are_set_for_a_while() -> None:
    before = torch.get_num_threads()
    with computing_with(before + 2):
        assert torch.get_num_threads() == before + 2
    with computing_with(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


# ---- what may be asked for


def test_devices_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(None, None) is None
    assert asked(None, "cpu") is None
    assert asked(3, "cpu") == ("cpu", "cpu", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert asked(None, "cuda:1, cuda:3") == ("cuda:1", "cuda:3")
    assert asked(None, "cuda:0,cuda:0") == ("cuda:0", "cuda:0")
    assert asked(2, "cuda:1,cuda:3") == ("cuda:1", "cuda:3")
    assert asked(3, None) == ("cuda:0", "cuda:1", "cuda:2")
    assert asked(1, "cuda:3") == ("cuda:3",)


WRONG: list[tuple[Any, str | None, Any, str]] = [
    (0, None, None, "Got workers=0: expected a whole number from 1"),
    (1.5, None, None, "Got workers=1.5: expected a whole number"),
    (True, None, None, "Got workers=True: expected a whole number"),
    (2, "cpu", object(), "a loaded pipeline .* and 2 workers, but an object .* Leave pipe out"),
    (None, "cuda:0,cuda:1", object(), "a loaded pipeline .* and 2 workers"),
    (None, "cpu,cpu", None, "there is one CPU. Use device='cpu' and workers=2"),
    (None, "cuda:0,cpu", None, "expected devices of one kind"),
    (None, "cuda:0,", None, "expected devices of one kind"),
    (3, "cuda:0,cuda:1", None, "workers=3 and 2 devices .*Leave workers out"),
    (None, "cuda:0,cuda:2", None, "'cuda:2' is not there; this machine has cuda:0, cuda:1"),
    (None, "cuda:x,cuda:y", None, "Device 'cuda:x' cannot be used"),
    (3, "cuda", None, "workers=3 on device='cuda', .* there are 2. Name one device per worker"),
    (2, "cuda:1", None, "workers=2 on device='cuda:1', .*Name one device per worker"),
]


@pytest.mark.parametrize(("workers", "device", "pipe", "message"), WRONG)
def test_what_is_not_possible_is_refused(
    workers: Any, device: Any, pipe: Any, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=message):
        run(tiny_study(), tmp_path / "run", workers=workers, device=device, pipe=pipe)
    assert not (tmp_path / "run").exists()


def test_no_gpu_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda:0' is not there; this machine has no CUDA device"):
        run(tiny_study(), tmp_path / "run", device="cuda:0,cuda:1")


@pytest.mark.parametrize("command", [["demo"], ["run", "--model", "shapes"]])
def test_the_command_line_hands_workers_and_devices_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: dict[str, Any] = {}

    def stop(*_: Any, **options: Any) -> None:
        heard.update(options)
        raise UsageError("far enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sinkscope.study.run", stop)
    assert main([*command, "--workers", "2", "--device", "cpu"]) == 2
    assert (heard["workers"], heard["device"], heard["pipe"]) == (2, "cpu", None)
    assert main([*command, "--device", "cpu"]) == 2
    assert (heard["workers"], heard["pipe"]) == (None, None)
    monkeypatch.undo()
    assert main([*command, "--workers", "0", "--out", str(tmp_path / "run")]) == 2
    assert "error: Got workers=0: expected a whole number from 1." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- what is decided before anybody works


class Together(Exception):
    """In place of starting workers."""


class Alone(Exception):
    """In place of generating in this process."""


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, any work is enough, and nothing is generated."""

    def together(*arguments: Any, **_: Any) -> None:
        raise Together(arguments[4], arguments[5])

    def alone(*_: Any, **__: Any) -> None:
        raise Alone

    monkeypatch.setattr(_complete, "_together", together)
    monkeypatch.setattr(_complete, "_load", lambda *_: tiny_sd3())
    monkeypatch.setattr(_generate, "generate", alone)
    monkeypatch.setattr(_team, "PAYS", 1)
    monkeypatch.setattr(_machine, "cores", lambda: 2)


def test_workers_are_started_unasked_for_a_small_model(decided: None, tmp_path: Path) -> None:
    study = Study(model="shapes", prompts="shapes", n_prompts=17, steps=2, metrics=())
    with pytest.raises(Together) as told:
        run(study, tmp_path / "named", progress=False)
    assert told.value.args == (("cpu", "cpu"), None)
    with pytest.raises(Together) as told:
        run(tiny_study(), tmp_path / "loaded", progress=False)
    places, made = told.value.args
    assert places == ("cpu", "cpu")
    assert made["resolved"]["batch"] == 2  # settled by the process that had to load it to know its size
    with pytest.raises(Together) as told:
        run(tiny_study(), tmp_path / "asked", progress=False, workers=3)
    assert told.value.args == (("cpu",) * 3, None)


@pytest.mark.parametrize("why", ["pipe", "asked", "one batch", "made here", "gpu"])
def test_one_process_is_kept_to(
    decided: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    changes: dict[str, Any] = {"batch": 5} if why == "one batch" else {}
    options = {"pipe": {"pipe": tiny_sd3()}, "asked": {"workers": 1}, "gpu": {"device": "cuda"}}.get(why, {})
    if why == "made here":
        monkeypatch.setattr(_team, "only_here", lambda _: "the selector Mine of arm 'mine'")
    with pytest.raises(Alone):
        run(tiny_study(**changes), tmp_path / "run", progress=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("threads", "expected"), [(1, Together), (2, Alone), (None, Together)])
def test_a_resumed_run_shares_the_cores_by_its_threads(
    decided: None, copy: Run, threads: int | None, expected: type[Exception]
) -> None:
    _record_threads(copy.folder, threads)
    for unit in ("p0000-s0", "p0004-s0"):  # of two batches
        (copy.folder / "units" / "sink_1" / f"{unit}.png").unlink()
    with pytest.raises(expected):
        run(tiny_study(), copy.folder, progress=False)


@pytest.mark.parametrize("threads", [3, None])
def test_a_resumed_run_computes_with_the_recorded_number_of_threads(
    copy: Run, again: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, threads: int | None
) -> None:
    before, used, paint = torch.get_num_threads(), set(), painting.paint

    def watch(*arguments: Any) -> Any:
        used.add(torch.get_num_threads())
        return paint(*arguments)

    _record_threads(copy.folder, threads)
    (copy.folder / "units" / "sink_1" / "p0000-s0.png").unlink()
    monkeypatch.setattr(painting, "paint", watch)
    assert again(copy.folder).record["resolved"].get("threads") == threads
    assert used == {threads or before}
    assert torch.get_num_threads() == before


def _record_threads(folder: Path, threads: int | None) -> None:
    store = Store(folder)
    record = store.record()
    assert record is not None
    record["resolved"].pop("threads")
    if threads is not None:
        record["resolved"]["threads"] = threads
    store.write_record(record)


# ---- what cannot leave a process


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    _selectors.register_selector(FirstKey)
    yield
    del _selectors._REGISTRY._known["FirstKey"]


@pytest.mark.parametrize("select", [FirstKey(), Within(FirstKey(), "image")])
def test_a_selector_made_here_is_refused_where_workers_are_asked_for(
    registered: None, select: Selector, tmp_path: Path
) -> None:
    study = tiny_study(arms={"mine": Edit(select, Mask())})
    assert only_here(study) == "the selector FirstKey of arm 'mine'"
    with pytest.raises(UsageError, match="FirstKey of arm 'mine' was made in this process.*workers=1"):
        run(study, tmp_path / "run", workers=2)
    assert not (tmp_path / "run").exists()


def test_a_backend_made_here_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only_here(tiny_study()) is None
    entry = _backends._Entry(lambda *_: None, lambda *_: True, lambda *_: None)  # type: ignore[arg-type,return-value]
    monkeypatch.setitem(_backends._BACKENDS, "mine", entry)
    assert only_here(tiny_study()) == "the attention backend 'mine'"


# ---- the machine


def test_cores_follow_affinity_threads_and_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(_machine, "_quotas", lambda: iter(()))
    assert _machine.cores() == 12
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert _machine.cores() == 3
    monkeypatch.setattr(_machine, "_quotas", lambda: iter((2.5, 0.5)))
    assert _machine.cores() == 1


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_control_groups(version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group, meminfo, root = tmp_path / "cgroup", tmp_path / "meminfo", tmp_path / "fs"
    meminfo.write_text("MemTotal: 64 kB\nMemAvailable: 32768 kB\n")
    for name, path in (("GROUPS", root), ("OF_THIS_PROCESS", group), ("MEMORY", meminfo)):
        monkeypatch.setattr(_machine, name, path)
    assert list(_machine._quotas()) == []
    assert _machine.free_memory() == 32 * 2**20
    if version == 2:
        group.write_text("0::/job/step\n")
        files = {
            "job/cpu.max": "250000 100000",
            "job/step/cpu.max": "max 100000",
            "job/memory.max": str(20 * 2**20),
            "job/memory.current": str(15 * 2**20),
            "job/memory.stat": f"anon 1\ninactive_file {2**20}\n",
            "job/step/memory.max": "max",
            "job/step/memory.current": "5",
        }
    else:
        group.write_text("3:memory:/job\n2:cpu,cpuacct:/job\n0::/\n")
        files = {
            "cpu/job/cpu.cfs_quota_us": "250000",
            "cpu/job/cpu.cfs_period_us": "100000",
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "memory/job/memory.limit_in_bytes": str(20 * 2**20),
            "memory/job/memory.usage_in_bytes": str(15 * 2**20),
            "memory/job/memory.stat": f"inactive_file 7\ntotal_inactive_file {2**20}\n",
        }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert list(_machine._quotas()) == [2.5]
    assert _machine.free_memory() == 6 * 2**20
