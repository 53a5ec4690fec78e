"""Progress: lines in a log, a bar on a terminal, silence when asked."""

from __future__ import annotations

import io

from sinkscope.study._progress import Meter, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_per_interval() -> None:
    log = io.StringIO()
    with Meter("generate", 10, 4, stream=log, interval=0.0) as meter:
        meter.advance(2)
        assert "ETA 0:" in meter.text()
        meter.advance(4)
    lines = log.getvalue().splitlines()
    assert lines[0] == "generate: 4 of 10 were already there"
    assert lines[1].startswith("generate: 6/10, ")
    assert "/s, ETA " in lines[1]
    assert lines[-1].startswith("generate: 10/10, ")
    assert "ETA" not in lines[-1]


def test_a_long_interval_says_only_the_end() -> None:
    log = io.StringIO()
    with Meter("score", 3, stream=log, interval=60) as meter:
        for _ in range(3):
            meter.advance()
    assert len(log.getvalue().splitlines()) == 1


def test_a_terminal_gets_a_bar() -> None:
    terminal = Terminal()
    with Meter("generate", 4, stream=terminal) as meter:
        meter.advance(4)
        meter.note("a note")
    assert "4/4" in terminal.getvalue()
    assert "a note" in terminal.getvalue()


def test_silence() -> None:
    log = io.StringIO()
    with Meter("generate", 4, 1, show=False, stream=log, interval=0.0) as meter:
        meter.advance(3)
        meter.note("a note")
    assert log.getvalue() == ""


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 61.4, 7322)] == ["0:00:00", "0:01:01", "2:02:02"]
