"""What the benchmarks share: two clocks, peak memory, and the machine they ran on."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path


@dataclass
class Clock:
    """Times of one way of doing something."""

    cpu: list[float] = field(default_factory=list)
    """Processor seconds of all threads, and of processes started and ended meanwhile: what a busy machine
    changes least."""
    wall: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], object]) -> None:
        """Do it once."""
        cpu, wall = processor_seconds(), time.perf_counter()
        work()
        self.cpu.append(processor_seconds() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def median(self) -> tuple[float, float]:
        """Processor seconds and seconds on the wall."""
        return statistics.median(self.cpu), statistics.median(self.wall)


def processor_seconds() -> float:
    """Processor time of this process and of those it started that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Clock]:
    """Time all ways in turn, round after round, so that a busy machine slows all of them alike."""
    clocks = {name: Clock() for name in ways}
    for turn in range(rounds + 1):
        for name, work in ways.items():
            if turn:
                clocks[name].time(work)
            else:  # warms up
                work()
    return clocks


def machine(threads: int) -> str:
    """One line: processor, threads, load, versions."""
    names = ("torch", "diffusers", "transformers")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{processor()}, {os.cpu_count()} CPUs, {threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}, {versions}"
    )


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_of(work: Callable[[], object]) -> float:
    """MiB that a piece of work needed at its peak above what was there before; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
