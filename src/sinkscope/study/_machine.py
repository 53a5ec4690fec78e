"""How many cores and how much memory this process may use, as the system and the user say.

Batch systems and containers allow less than the machine has: the processor affinity, limits of control groups
(versions 1 and 2), and the number of threads that torch was told to use (`OMP_NUM_THREADS`,
`torch.set_num_threads`) all count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OF_THIS_PROCESS = Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")


def cores() -> int:
    """Cores that this process may use; never more than the threads torch may use."""
    import torch

    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        allowed = os.cpu_count() or 1
    found = min([allowed, torch.get_num_threads(), *map(math.ceil, _quotas())])
    return max(1, found)


def free_memory() -> int | None:
    """Bytes that may still be taken; None where the system does not tell."""
    found = list(_group_memory())
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        lines = []
    found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return max(0, min(found)) if found else None


def _quotas() -> Iterator[float]:
    """Cores that the control groups of this process grant, where they limit them."""
    for folder in _folders("cpu"):
        new = _words(folder / "cpu.max")
        if len(new) == 2 and new[0] != "max":
            yield int(new[0]) / int(new[1])
        quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            yield int(quota[0]) / int(period[0])


def _group_memory() -> Iterator[int]:
    """Bytes left in the control groups of this process, where they limit them."""
    for folder in _folders("memory"):
        for limit, used in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, now = _words(folder / limit), _words(folder / used)
            if most and now and most[0] != "max":
                words = _words(folder / "memory.stat")
                parts = dict(zip(words[::2], words[1::2], strict=False))
                # Pages of files that were only read can be given up; the kernel counts them as used.
                spare = int(parts.get("total_inactive_file") or parts.get("inactive_file") or 0)
                yield int(most[0]) - int(now[0]) + spare


def _folders(controller: str) -> Iterator[Path]:
    """The control groups that this process is in and their parents, in either version."""
    try:
        lines = OF_THIS_PROCESS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, place = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        root = GROUPS / controller if names else GROUPS
        folder = root / place.strip("/")
        # In a container the path is often the host's: what is above it holds here.
        yield from (part for part in (folder, *folder.parents) if part == root or root in part.parents)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
