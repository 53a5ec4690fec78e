"""A worker process: loads the model and generates the batches it is given (`_crew.py` starts it).

It reads messages from its standard input and answers on its standard output, a line of JSON each; whatever
else prints goes to standard error. It ends as soon as its input closes, which the system does when the
process that started it is gone: a new run of the folder may begin at any moment then, and nothing of an old
one may be written beside it. Before each task is written it asks once more, should something have inherited
the other end of the pipe.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from sinkscope import errors
from sinkscope.attention import use_backend
from sinkscope.errors import SinkscopeError
from sinkscope.prompts import PromptRecord
from sinkscope.study import _generate, _record, _torch_settings
from sinkscope.study._crew import KEPT
from sinkscope.study._plan import Batch, Plan, Task, make_plan
from sinkscope.study._prepare import prepare
from sinkscope.study._store import Store
from sinkscope.study._study import Study


class Line:
    """The connection to the process that started this one. Also the meter of this worker, which is there.

    Args:
        given: File descriptor that messages come from.
        told: File descriptor that answers go to.
    """

    def __init__(self, given: int, told: int) -> None:
        self._in, self._out = os.fdopen(given, "rb"), os.fdopen(told, "wb")
        self._writing = threading.Lock()
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.busy = False
        """Whether a batch is being generated, so that "stop" has to interrupt it."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._in:
            message = json.loads(line)
            if message["do"] != "stop":
                self._messages.put(message)
                continue
            self._messages.put(None)
            if self.busy:
                _thread.interrupt_main()
        os._exit(1)

    def get(self) -> dict[str, Any]:
        """The next message.

        Raises:
            KeyboardInterrupt: The worker shall stop.
        """
        message = self._messages.get()
        if message is None:
            raise KeyboardInterrupt
        return message

    def say(self, **message: Any) -> None:
        """Answer."""
        try:
            with self._writing:
                self._out.write(json.dumps(message).encode() + b"\n")
                self._out.flush()
        except OSError:
            os._exit(1)

    def advance(self, count: int = 1) -> None:
        """Images were finished, or taken back."""
        self.say(saved=count)

    def note(self, text: str) -> None:
        """Something to say once."""
        self.say(note=text)

    def kept(self) -> str:
        """How many images are there is known to the process that started this one."""
        return KEPT


class WatchedStore(Store):
    """Writes only as long as the process that holds the folder's lock lives."""

    def __init__(self, folder: Path, holder: int) -> None:
        super().__init__(folder)
        self._holder = holder

    def save_task(
        self,
        task: Task,
        images: Sequence[Any],
        tables: Mapping[str, pd.DataFrame],
        how: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """As `Store.save_task`."""
        if os.getppid() != self._holder:
            os._exit(1)
        super().save_task(task, images, tables, how)


def main() -> None:
    """Serve until told to end."""
    told = os.dup(1)
    os.dup2(2, 1)  # what prints must not get between the messages
    line = Line(os.dup(0), told)
    code = 0
    try:
        _quiet()
        _serve(line)
        line.say(bye=True)
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        line.say(error=_told(error))
        code = 1
    # At once: no thread that still waits for something may hold up the others.
    os._exit(code)


def _serve(line: Line) -> None:
    from sinkscope.models import load

    first = line.get()
    _torch_settings.apply(first["settings"])
    pipe = load(first["model"], device=first["device"])
    with use_backend(first["backend"]) if first["backend"] else nullcontext():
        while (message := line.get())["do"] != "end":
            if message["do"] == "prepare":
                prompts = [PromptRecord(**entry) for entry in message["prompts"]]
                study = Study.from_dict(message["study"])
                sharers = message["sharers"]
                line.say(made=prepare(pipe, study, prompts, new=message["new"], sharers=sharers))
            else:
                _generate_batches(line, pipe, message, first["parent"])
                return


def _generate_batches(line: Line, pipe: Any, message: Mapping[str, Any], holder: int) -> None:
    """Generate one batch after the other until there is none left."""
    import torch

    torch.set_num_threads(message["threads"])
    store = WatchedStore(Path(message["folder"]), holder)
    record = store.record()
    assert record is not None  # written before anyone is told to generate
    study = _record.recorded_study(record)
    plan = make_plan(study, _record.recorded_prompts(record), record["resolved"]["batch"])
    _record.refuse_other_model(
        store.folder, record, _record.weight_hashes(pipe), torch.device(pipe.device).type
    )
    batches = plan.batches()
    # On a GPU each encodes an equal share of all prompts first and finds the others' on the disk later.
    mine = batches[message["number"] :: message["of"]]
    ahead = [Task(batch, arm) for batch in mine for arm in plan.arms]
    _generate.make(
        store,
        study,
        plan,
        pipe,
        record,
        _asked(line, plan, batches),
        ahead=ahead,
        meter=line,
        begun=lambda batch, arm: line.say(at=[arm, batch.index]),
    )


def _asked(line: Line, plan: Plan, batches: list[Batch]) -> Iterator[list[Task]]:
    """Batches as they are handed out, with the arms that are missing of each."""
    while True:
        line.say(next=True)
        message = line.get()
        if message["do"] == "end":
            return
        line.busy = True
        yield [Task(batches[message["index"]], arm) for arm in message["arms"]]
        line.busy = False


def _told(error: BaseException) -> dict[str, Any]:
    """An error as plain data; of a kind that only some room knows, the nearest in `errors`."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind]
    trace = "".join(traceback.format_exception(error))
    text = str(error) if isinstance(error, SinkscopeError) else f"{type(error).__name__}: {error}"
    return {
        "kind": kinds[0] if kinds else "",
        "text": text,
        "notes": list(getattr(error, "__notes__", ())),
        "trace": trace,
    }


def _quiet() -> None:
    """No loading bars: they would show once per worker, between the lines of the one meter."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        logging: Any = library.utils.logging
        logging.disable_progress_bar()
        logging.set_verbosity_error()
