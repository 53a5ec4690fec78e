"""Worker processes that generate the batches of one run, seen from the process that started them.

Each is a fresh interpreter (`_worker.py`): nothing is forked after torch has used threads, and the caller's
script is not imported again, so it needs no `if __name__ == "__main__"`. Both sides speak JSON, a line per
message: what goes to a worker is plain data, and it loads the model itself. The worker's input is a pipe that
closes when this process ends, however it ends; a worker that sees it closed ends at once.

This process keeps the lock of the folder, hands out batches one by one and shows one meter for all.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from sinkscope import errors
from sinkscope.attention import named_backend
from sinkscope.errors import SinkscopeError
from sinkscope.study import _torch_settings
from sinkscope.study._encodings import forget
from sinkscope.study._generate import batches_of, meter_of
from sinkscope.study._plan import Plan, Task
from sinkscope.study._progress import Meter
from sinkscope.study._record import prompt_records
from sinkscope.study._store import Store
from sinkscope.study._study import Study

PATIENCE = 20.0
"""Seconds that workers get to write what they have finished before they are ended."""
KEPT = "{kept}"
"""Stands in a worker's message for what only this process knows: how many images are kept."""


class Member:
    """One worker process.

    Args:
        number: Its number from 0.
        device: Where it runs.
        events: Where its messages go, each with the member; None when it has ended.
    """

    def __init__(self, number: int, device: str, events: queue.SimpleQueue[Any]) -> None:
        self.number, self.device = number, device
        self.at: tuple[str, int] | None = None
        """Arm and batch that it generates."""
        self.working, self.finished = False, False
        # Set before any import, so that nothing in the current folder can stand in for a module.
        code = f"import sys; sys.path[:] = {sys.path!r}; from sinkscope.study import _worker; _worker.main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Before torch is imported there: spinning threads of one worker would slow the others.
            env={"OMP_WAIT_POLICY": "passive", "TRANSFORMERS_VERBOSITY": "error", **os.environ},
            # Ctrl-C on a terminal reaches this process alone, which tells the workers in its own words.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def _read(self, events: queue.SimpleQueue[Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self, json.loads(line)))
        events.put((self, None))

    def send(self, **message: Any) -> None:
        """Tell it something; a worker that is gone is noticed by its end."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def end(self, deadline: float) -> None:
        """Wait until the deadline, then kill it."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Crew:
    """Workers, one per device named (a CPU may be named several times).

    Args:
        model: The model of the study, which each of them loads.
        devices: Where each of them runs.

    Raises (from every method): what went wrong in a worker; or that one was ended from outside.
    """

    def __init__(self, model: str, devices: Sequence[str]) -> None:
        self._model, self._devices = model, devices
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._members: list[Member] = []
        self._meter: Meter | None = None

    def __enter__(self) -> Crew:
        try:
            for number, device in enumerate(self._devices):
                self._members.append(Member(number, device, self._events))
        except BaseException:
            self._stop()
            raise
        for member in self._members:
            member.send(
                do="load",
                model=self._model,
                device=member.device,
                parent=os.getpid(),
                backend=named_backend(),
                settings=_torch_settings.current(),
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def prepare(self, study: Study, prompts: Sequence[Any], *, new: bool) -> dict[str, Any]:
        """`_prepare.prepare` in the first worker."""
        first = self._members[0]
        first.send(
            do="prepare",
            study=study.to_dict(),
            prompts=prompt_records(prompts),
            new=new,
            sharers=list(self._devices).count(first.device),
        )
        while True:
            member, message = self._events.get()
            self._hear(member, message)
            if message is not None and "made" in message:
                made: dict[str, Any] = message["made"]
                return made

    def generate(self, store: Store, plan: Plan, todo: Sequence[Task], *, threads: int, show: bool) -> None:
        """Run every task of `todo`.

        Args:
            store: The run folder, whose record is written.
            plan: All units and arms.
            todo: What is not finished.
            threads: Threads of each worker.
            show: Show progress.
        """
        waiting = deque(batches_of(todo))
        with meter_of(plan, todo, show=show) as self._meter:
            # More workers than batches: the others have nothing to do.
            for member in self._members[len(waiting) :]:
                member.finished = True
                member.send(do="end")
            working = self._members[: len(waiting)]
            for member in working:
                member.send(
                    do="generate",
                    folder=str(store.folder.resolve()),
                    threads=threads,
                    number=member.number,
                    of=len(working),
                )
            try:
                while not all(member.finished for member in working):
                    member, message = self._events.get()
                    self._hear(member, message)
                    if message is not None and "next" in message:
                        if waiting:
                            tasks = waiting.popleft()
                            member.working = True
                            arms = [task.arm for task in tasks]
                            member.send(do="batch", index=tasks[0].batch.index, arms=arms)
                        else:
                            member.send(do="end")
            except BaseException as error:
                # Before the meter closes: what the others finish meanwhile is kept, and counted.
                self._stop()
                self._fill_in(error)
                raise
        forget(store.folder)

    def _hear(self, member: Member, message: Mapping[str, Any] | None) -> None:
        """Take in what every worker may say at any time."""
        if message is None:
            if not member.finished:
                raise self._gone(member)
        elif "error" in message:
            member.finished = True
            raise rebuilt(message["error"])
        elif "saved" in message and self._meter is not None:
            self._meter.advance(message["saved"])
        elif "note" in message and self._meter is not None:
            self._meter.note(message["note"])
        elif "at" in message:
            member.at = (message["at"][0], message["at"][1])
        elif "bye" in message:
            member.finished = True

    def _gone(self, member: Member) -> SinkscopeError:
        """The error for a worker that ended without a word."""
        code = member.process.wait()
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        where = f" in arm {member.at[0]!r}, batch {member.at[1]}" if member.at else " before its first image"
        killed = " This is what the system does where memory runs out." if how == "SIGKILL" else ""
        return SinkscopeError(
            f"A worker process was ended from outside ({how}){where}.{killed} Run the same command again to "
            f"continue, with fewer workers where memory is short. {KEPT}"
        )

    def _fill_in(self, error: BaseException) -> None:
        """Say in an error how many images are kept."""
        if isinstance(error, SinkscopeError) and self._meter is not None:
            kept = self._meter.kept()
            error.args = tuple(a.replace(KEPT, kept) if isinstance(a, str) else a for a in error.args)
            notes = getattr(error, "__notes__", [])
            notes[:] = [note.replace(KEPT, kept) for note in notes]

    def _stop(self) -> None:
        """End every worker: those at work finish writing, the others have nothing to lose."""
        patience = PATIENCE
        for member in self._members:
            if not member.working and not member.finished:
                member.process.kill()
            member.send(do="stop")
        try:
            deadline = time.monotonic() + patience
            for member in self._members:
                member.end(deadline)
        except BaseException:  # a second Ctrl-C: no more patience
            for member in self._members:
                member.process.kill()
            raise
        while not self._events.empty():
            _, message = self._events.get()
            if message is not None and "saved" in message and self._meter is not None:
                self._meter.advance(message["saved"])


def rebuilt(told: Mapping[str, Any]) -> Exception:
    """The error that a worker met. Its own kind where it is one of `errors`; anything else is a flaw, and
    comes with the worker's traceback."""
    kind = getattr(errors, str(told["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, SinkscopeError)):
        return RuntimeError(f"{told['text']}\n\nIn a worker process:\n{told['trace']}")
    error = kind(told["text"])
    for note in told["notes"]:
        error.add_note(note)
    return error
