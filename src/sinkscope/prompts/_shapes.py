"""Prompts of the embedded model's grammar, drawn in equal shares per task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sinkscope.errors import UsageError, unknown
from sinkscope.prompts._draw import named_tasks
from sinkscope.prompts._record import PromptRecord
from sinkscope.shapes.grammar import TASKS, Caption, every, is_held_out

SPLITS = ("seen", "heldout", "all")


def shapes_prompts(
    n: int | None = None,
    *,
    seed: int = 0,
    split: str = "seen",
    tasks: str | Sequence[str] | None = None,
) -> list[PromptRecord]:
    """Draw n distinct prompts, tasks in equal shares.

    A task with fewer prompts than its share (single_object has 8) gives all of them and the others fill up in
    turn.

    Args:
        n: How many; None for all but color_attr, of which 100 are drawn (it has thousands).
        seed: Keys the draw; each task's order depends on the seed and the task alone.
        split: "seen" combinations, "heldout" ones (never trained on), or "all".
        tasks: These tasks only; None for all six.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    pools = {task: _ordered(task, seed, split) for task in named_tasks(tasks, TASKS, "shapes")}
    if n is None:
        chosen = {task: pool[:100] for task, pool in pools.items()}
    else:
        total = sum(map(len, pools.values()))
        if not 1 <= n <= total:
            raise UsageError(f"Asked for {n} shapes prompts, but split {split!r} has 1 to {total}.")
        chosen = {task: pools[task][:share] for task, share in _shares(pools, n).items()}
    return [
        PromptRecord(f"{task}-{index:04d}", caption.text, task, caption.metadata)
        for task in chosen
        for index, caption in chosen[task]
    ]


def _ordered(task: str, seed: int, split: str) -> list[tuple[int, Caption]]:
    """Return captions of a split with their index in the task's full list, in keyed random order."""
    wanted = {"seen": (False,), "heldout": (True,), "all": (False, True)}[split]
    pool = [(i, caption) for i, caption in enumerate(every(task)) if is_held_out(caption) in wanted]
    order = np.random.default_rng((seed, TASKS.index(task))).permutation(len(pool))
    return [pool[i] for i in order]


def _shares(pools: dict[str, list[tuple[int, Caption]]], n: int) -> dict[str, int]:
    shares = dict.fromkeys(pools, 0)
    while n:
        open_tasks = [task for task in pools if shares[task] < len(pools[task])]
        for task in open_tasks[:n]:
            shares[task] += 1
            n -= 1
    return shares
