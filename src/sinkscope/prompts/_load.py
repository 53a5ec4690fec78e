"""Prompt sets by name or path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sinkscope.errors import UsageError, unknown
from sinkscope.prompts._files import SUFFIXES, read_file
from sinkscope.prompts._record import PromptRecord, checked
from sinkscope.prompts._shapes import shapes_prompts


def load(
    source: str | Path | Sequence[str], n: int | None = None, *, seed: int = 0, split: str = "seen"
) -> list[PromptRecord]:
    """Return prompt records.

    Args:
        source: "shapes", the path of a prompt file, or the prompts themselves.
        n: How many; stratified over tasks, never the first lines. None for all.
        seed: Keys the draw.
        split: For "shapes": "seen", "heldout" or "all".

    Raises:
        UsageError: Unknown set, unreadable file, empty or duplicate prompts, more prompts asked for than
        there are.
    """
    if isinstance(source, str) and source == "shapes":
        return checked(shapes_prompts(n, seed=seed, split=split), "shapes")
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix not in SUFFIXES and not path.exists():
            raise unknown(
                "prompt set", str(source), ("shapes", "or the path of a .txt, .jsonl, .csv or .parquet file")
            )
        return _subset(checked(read_file(path), str(path)), n, seed)
    records = [PromptRecord(f"{i:05d}", text) for i, text in enumerate(source)]
    return _subset(checked(records, "the list of prompts"), n, seed)


def _subset(records: list[PromptRecord], n: int | None, seed: int) -> list[PromptRecord]:
    """Draw n records, tasks in equal shares, kept in file order."""
    if n is None:
        return records
    if not 1 <= n <= len(records):
        raise UsageError(
            f"Asked for {n} prompts, but the set has {len(records)}. Expected 1 to {len(records)}."
        )
    tasks = sorted({record.task for record in records})
    queues = []
    for which, task in enumerate(tasks):
        mine = [i for i, record in enumerate(records) if record.task == task]
        queues.append([mine[j] for j in np.random.default_rng((seed, which)).permutation(len(mine))])
    chosen: list[int] = []
    while len(chosen) < n:
        for queue in queues:
            if queue and len(chosen) < n:
                chosen.append(queue.pop())
    return [records[i] for i in sorted(chosen)]
