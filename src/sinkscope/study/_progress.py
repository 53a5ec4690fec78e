"""How far a stage is: a bar on a terminal, one line per interval in a log, nothing when switched off."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Meter:
    """Counts what is done in one stage and shows done/total, rate and remaining time.

    Args:
        stage: A word for the stage, for example "generate".
        total: How many things there are.
        done: How many of them were there before this call; not counted in the rate.
        show: False prints nothing.
        stream: Where lines go; standard error by default, so that standard output stays clean.
        interval: Seconds between lines in a log.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        done: int = 0,
        *,
        show: bool = True,
        stream: TextIO | None = None,
        interval: float = 30.0,
    ) -> None:
        self.stage, self.total, self.done, self._before = stage, total, done, done
        self._show, self._interval = show, interval
        self._stream = stream if stream is not None else sys.stderr
        self._started = self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Meter:
        self._started = self._last = time.monotonic()
        if self._show and self._stream.isatty():
            self._open_bar()
        elif self._show and self.done and self.total:
            self._line(f"{self.stage}: {self.done} of {self.total} were already there")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._show and self.done > self._before:
            self._line(self.text())

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(file=self._stream))
        self._task = self._bar.add_task(self.stage, total=self.total, completed=self.done, rate="")
        self._bar.start()

    def advance(self, count: int = 1) -> None:
        """Count `count` more things as done."""
        self.done += count
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, rate=self._rate_text(now))
        elif self._show and now - self._last >= self._interval:
            self._last = now
            self._line(self.text())

    def note(self, text: str) -> None:
        """Say something once, without disturbing the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._show:
            self._line(text)

    def kept(self) -> str:
        """How many images are there, for the end of an error."""
        return f"{self.done} images are kept."

    def rate(self, now: float | None = None) -> float:
        """Things per second of this call."""
        elapsed = (time.monotonic() if now is None else now) - self._started
        return (self.done - self._before) / elapsed if elapsed > 0 else 0.0

    def text(self) -> str:
        """One line: stage, done/total, rate, time left."""
        now = time.monotonic()
        left = self.total - self.done
        rate = self.rate(now)
        eta = f", ETA {clock(left / rate)}" if left and rate > 0 else ""
        return f"{self.stage}: {self.done}/{self.total}{self._rate_text(now, ', ')}{eta}"

    def _rate_text(self, now: float, lead: str = "") -> str:
        rate = self.rate(now)
        return f"{lead}{rate:.2f}/s" if rate > 0 else ""

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
