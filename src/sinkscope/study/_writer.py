"""Finished tasks are written while the next ones are generated.

One thread writes in the order given, so what a killed process leaves behind is as if it had written by
itself, minus the few tasks that were still waiting. An error of the thread is raised in the caller at its
next step; what was waiting behind it is dropped and made again by the next run.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

WAITING = 2
"""Tasks that may wait. More would only cost memory: writing is faster than generating."""


class Writer:
    """Runs jobs in one thread, in order, at most `WAITING` behind.

    Raises (from `put`, `drain` and on leaving): whatever a job raised.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="sinkscope-writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def put(self, job: Callable[[], None]) -> None:
        """Add a job; waits while too many do."""
        self._raise()
        self._jobs.put(job)

    def drain(self) -> None:
        """Wait until everything is written."""
        self._jobs.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        failed = False
        while (job := self._jobs.get()) is not None:
            try:
                if not failed:
                    job()
            except BaseException as error:  # also Ctrl-C: it belongs to the caller
                self._error, failed = error, True
            finally:
                self._jobs.task_done()
