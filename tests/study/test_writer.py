"""The thread that writes: in order, bounded, and its errors reach the caller."""

from __future__ import annotations

import threading

import pytest

from sinkscope.study._writer import WAITING, Writer


def test_jobs_run_in_order_and_leaving_waits_for_them() -> None:
    done: list[int] = []
    with Writer() as writer:
        for number in range(20):
            writer.put(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == list(range(20))


def test_the_caller_is_never_far_ahead() -> None:
    gate, put = threading.Event(), []

    def fill(writer: Writer) -> None:
        for number in range(10):
            writer.put(gate.wait)
            put.append(number)

    with Writer() as writer:
        thread = threading.Thread(target=fill, args=(writer,))
        thread.start()
        thread.join(0.2)
        assert len(put) <= WAITING + 1
        gate.set()
        thread.join()
    assert len(put) == 10


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_an_error_is_raised_in_the_caller_and_drops_the_rest(kind: type[BaseException]) -> None:
    done: list[str] = []

    def fail() -> None:
        raise kind("disk")

    with pytest.raises(kind, match="disk"), Writer() as writer:
        writer.put(lambda: done.append("before"))
        writer.put(fail)
        writer.put(lambda: done.append("after"))
        writer.drain()
    assert done == ["before"]
    with pytest.raises(kind, match="disk"), Writer() as writer:
        writer.put(fail)


def test_an_error_of_the_caller_waits_for_what_was_put() -> None:
    done: list[int] = []
    with pytest.raises(RuntimeError, match="mine"), Writer() as writer:
        writer.put(lambda: done.append(1))
        raise RuntimeError("mine")
    assert done == [1]
