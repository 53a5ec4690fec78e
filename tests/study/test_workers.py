"""Batches generated in several processes: the same bytes as in one, whatever happens to a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.study.small import results, tiny_study
from tests.study.test_kill import ROOT, wait_for
from tests.tiny import tiny_sd3

import sinkscope.study._crew as crews
from sinkscope.attention import TopMass, _backends, use_backend
from sinkscope.errors import MissingWeightsError, NoMatchError, SinkscopeError
from sinkscope.models import Edit
from sinkscope.study import (
    Run,
    Study,
    _complete,
    _generate,
    _prepare,
    _torch_settings,
    _worker,
    run,
)
from sinkscope.study._plan import make_plan
from sinkscope.study._store import Store


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that every process can load."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_sd3().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def alone(model: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The study, generated in this process."""
    return run(tiny_study(model=model), tmp_path_factory.mktemp("alone") / "run", progress=False)


# ---- whole runs


@pytest.mark.slow
def test_interrupts_and_killed_workers_lose_nothing_that_was_finished(
    model: str, alone: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hear, processes = tmp_path / "run", crews.Crew._hear, []
    heard = 0

    def trouble(self: crews.Crew, member: crews.Member, message: Mapping[str, Any] | None) -> None:
        nonlocal heard
        hear(self, member, message)
        processes.append(member.process)
        heard += message is not None and "saved" in message
        if heard == 2:
            heard += 1
            raise KeyboardInterrupt
        if heard == 5:
            heard += 1
            member.process.send_signal(signal.SIGKILL)

    monkeypatch.setattr(crews.Crew, "_hear", trouble)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_study(model=model), folder, workers=2, progress=False)
    assert all(process.poll() is not None for process in processes)
    first = Run.open(folder).progress()[0]
    assert 3 <= first < 30
    with pytest.raises(
        SinkscopeError, match=r"ended from outside \(SIGKILL\) in arm '\w+', batch \d"
    ) as told:
        run(tiny_study(model=model), folder, workers=2, progress=False)
    assert all(process.poll() is not None for process in processes)
    done = Run.open(folder).progress()[0]
    assert first < done < 30
    assert f"{done} images are kept." in str(told.value)
    monkeypatch.undo()
    run(tiny_study(model=model), folder, progress=False)
    assert results(folder) == results(alone.folder)


SCRIPT = """
import sys
from sinkscope.study import run
from tests.study.small import tiny_study
run(tiny_study(model=sys.argv[2]), sys.argv[1], workers=2, progress=False)
"""
"""As a user writes it: no `if __name__ == "__main__"`."""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_end_with_their_run_and_the_next_ones_finish_it(
    model: str,
    alone: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), model], env={**os.environ, "PYTHONPATH": path}
    )
    wait_for(1, folder, process)  # type: ignore[arg-type]
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (len(workers), [pid for pid in workers if _alive(pid)]) == (2, [])
    done = Run.open(folder).progress()[0]
    assert 0 < done < 30

    given: list[tuple[int, int]] = []
    send = crews.Member.send

    def watch(self: crews.Member, **message: Any) -> None:
        if message["do"] == "batch":
            given.append((self.number, message["index"]))
        send(self, **message)

    monkeypatch.setattr(crews.Member, "send", watch)
    monkeypatch.setattr(_complete, "_load", lambda *_: pytest.fail("the model is the workers' business"))
    run(tiny_study(model=model), folder, workers=2)
    said = capsys.readouterr().err
    assert f"generate: {done} of 30 were already there" in said
    assert said.count("generate: 30/30") == 1
    assert {number for number, _ in given} == {0, 1}
    assert results(folder) == results(alone.folder)


def _alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# ---- one worker, served in this process


class Told(_worker.Line):
    """A worker's line whose messages are all there from the start, and whose answers are kept."""

    def __init__(self, *messages: Mapping[str, Any]) -> None:
        self._messages = iter(messages)  # type: ignore[assignment]
        self.busy = False
        self.said: list[dict[str, Any]] = []

    def get(self) -> dict[str, Any]:
        return dict(json.loads(json.dumps(next(self._messages))))  # type: ignore[call-overload]

    def say(self, **message: Any) -> None:
        self.said.append(json.loads(json.dumps(message)))


def messages(study: Study, folder: Path, batches: Mapping[int, Any], backend: Any = None) -> list[Any]:
    load = {"do": "load", "model": study.model, "device": "cpu", "parent": os.getppid(), "backend": backend}
    generate = {"do": "generate", "folder": str(folder), "threads": 1, "number": 0, "of": 1}
    parts = [{"do": "batch", "index": index, "arms": arms} for index, arms in batches.items()]
    return [{**load, "settings": _torch_settings.current()}, generate, *parts, {"do": "end"}]


def started(study: Study, folder: Path) -> None:
    """Write the record of a run, as the first process does."""
    pipe = tiny_sd3()
    made = _prepare.prepare(pipe, study, study.prompts, new=True)  # type: ignore[arg-type]
    _complete._settle(Store(folder), study, study.prompts, None, made, show=False)


def test_a_worker_serves_the_batches_it_is_given(model: str, alone: Run, tmp_path: Path) -> None:
    study = tiny_study(model=model)
    started(study, tmp_path)
    line = Told(*messages(study, tmp_path, {2: list(study.arm_names), 0: ["sink_1"]}))
    _worker._serve(line)
    ours = {name: data for name, data in results(tmp_path).items() if name.endswith((".png", ".parquet"))}
    theirs = results(alone.folder)
    assert len([name for name in ours if name.endswith(".png")]) == 6 + 2
    assert all(theirs[name] == data for name, data in ours.items())
    kinds = [next(iter(message)) for message in line.said]
    assert kinds.count("next") == 3
    assert [m["saved"] for m in line.said if "saved" in m] == [1] * 6 + [2]
    # The null arm is compared beside the baseline, so it is not begun.
    assert [tuple(m["at"]) for m in line.said if "at" in m] == [
        *((arm, 2) for arm in study.arm_names if arm != "null"),
        ("sink_1", 0),
    ]


def test_a_worker_measures_with_the_named_backend(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, named = tiny_study(model=model), []
    started(study, tmp_path)
    monkeypatch.setattr(_generate, "make", lambda *_, **__: named.append(list(_backends._NAMED)))
    _worker._serve(Told(*messages(study, tmp_path, {}, backend="reference")))
    _worker._serve(Told(*messages(study, tmp_path, {})))
    assert named == [["reference"], []]


def test_an_error_in_a_worker_is_the_one_of_a_single_process(model: str, tmp_path: Path) -> None:
    study = tiny_study(model=model, arms={"sink": Edit(TopMass(keys_per_head=9999))}, margins={})
    with pytest.raises(SinkscopeError) as here:
        run(study, tmp_path / "here", progress=False)
    started(study, tmp_path / "there")
    with pytest.raises(SinkscopeError) as there:
        _worker._serve(Told(*messages(study, tmp_path / "there", {0: ["baseline", "sink"]})))
    error = crews.rebuilt(json.loads(json.dumps(_worker._told(there.value))))
    assert type(error) is type(here.value)
    assert str(error) == str(here.value)
    assert here.value.__notes__ == ["In arm 'sink', batch 0. 2 images are kept."]
    assert error.__notes__ == ["In arm 'sink', batch 0. {kept}"]


def test_errors_keep_their_kind() -> None:
    class Absent(MissingWeightsError):
        """Known to one room only."""

    for error, kind in ((NoMatchError("a"), NoMatchError), (Absent("b"), MissingWeightsError)):
        again = crews.rebuilt(_worker._told(error))
        assert (type(again), str(again)) == (kind, str(error))
    try:
        raise IndexError("list index out of range")
    except IndexError as error:
        again = crews.rebuilt(_worker._told(error))
    assert type(again) is RuntimeError
    assert str(again).startswith("IndexError: list index out of range\n\nIn a worker process:\nTraceback")


def test_the_number_of_kept_images_is_put_in_where_it_is_known(tmp_path: Path) -> None:
    study = tiny_study()
    plan = make_plan(study, study.prompts, 2)  # type: ignore[arg-type]
    crew = crews.Crew("tiny", ["cpu"])
    with crews.meter_of(plan, list(plan.tasks())[6:], show=False) as crew._meter:
        error = SinkscopeError("Out of memory. {kept}")
        error.add_note("In arm 'a', batch 0. {kept}")
        crew._fill_in(error)
    assert str(error) == "Out of memory. 12 images are kept."
    assert error.__notes__ == ["In arm 'a', batch 0. 12 images are kept."]


# ---- a worker without its parent


class Left(BaseException):
    """In place of `os._exit`."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    return codes


def test_nothing_is_written_beside_a_new_run(tmp_path: Path, exits: list[int]) -> None:
    study = tiny_study(arms={}, margins={}, metrics=())
    task = next(make_plan(study, study.prompts, 1).tasks())  # type: ignore[arg-type]
    with pytest.raises(Left):
        _worker.WatchedStore(tmp_path, os.getppid() + 1).save_task(task, [], {})
    assert exits == [1]
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_closed_line_ends_a_worker(exits: list[int]) -> None:
    given, giver = os.pipe()
    heard, told = os.pipe()
    line = _worker.Line(given, told)
    os.write(giver, b'{"do": "load", "model": "tiny"}\n{"do": "stop"}\n')
    assert line.get() == {"do": "load", "model": "tiny"}
    with pytest.raises(KeyboardInterrupt):
        line.get()
    assert exits == []
    os.close(giver)
    deadline = time.monotonic() + 20
    while not exits and time.monotonic() < deadline:
        time.sleep(0.01)
    assert exits == [1]
    os.close(heard)


def test_torch_settings_are_taken_over() -> None:
    before = _torch_settings.current()
    try:
        changed = {**before, "matmul": "high", "default_dtype": "float64", "deterministic": True}
        _torch_settings.apply(json.loads(json.dumps(changed)))
        assert _torch_settings.current() == changed
    finally:
        _torch_settings.apply(before)
    assert _torch_settings.current() == before


def test_the_innermost_backend_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    class Silent:
        def __init__(self, number: int, device: str, events: Any) -> None:
            self.number, self.device = number, device

        def send(self, **message: Any) -> None:
            sent.append(message)

    monkeypatch.setattr(crews, "Member", Silent)
    crews.Crew("tiny", ["cpu", "cpu"]).__enter__()
    with use_backend("rowblock"), use_backend("reference"):
        crews.Crew("tiny", ["cpu"]).__enter__()
    assert [message["backend"] for message in sent] == [None, None, "reference"]
    assert {message["parent"] for message in sent} == {os.getpid()}
