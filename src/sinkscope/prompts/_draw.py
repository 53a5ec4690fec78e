"""Which prompts of a set are used: a draw in equal shares per task, or openly the first ones.

A draw is made from keyed hashes of the texts, not from a stream of random numbers: the same prompts come out
whatever the order of the set, a larger draw contains the smaller one, and a task's draw does not depend on
which other tasks take part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from sinkscope.errors import UsageError, unknown
from sinkscope.prompts._record import PromptRecord, same_text

Order: TypeAlias = Literal["stratified", "file"]


def keyed(records: Sequence[PromptRecord], seed: int, purpose: str = "draw") -> list[PromptRecord]:
    """Return the records in a random order that depends on the seed and the texts alone."""
    return sorted(records, key=lambda record: _key(seed, purpose, same_text(record.text)))


def _key(seed: int, purpose: str, text: str) -> bytes:
    return hashlib.sha256(f"sinkscope/prompts/{seed}/{purpose}/{text}".encode()).digest()


def of_tasks(
    records: Sequence[PromptRecord], tasks: str | Sequence[str] | None, source: str
) -> list[PromptRecord]:
    """Return the records of some tasks, all where `tasks` is None.

    Raises:
        UsageError: A task that the set does not have, or none named.
    """
    known = list(dict.fromkeys(record.task for record in records))
    wanted = named_tasks(tasks, known, source)
    return [record for record in records if record.task in wanted]


def named_tasks(tasks: str | Sequence[str] | None, known: Sequence[str], source: str) -> tuple[str, ...]:
    """Return the known tasks that are asked for, in their order; all where `tasks` is None.

    Raises:
        UsageError: A task that is not known, or none named.
    """
    if tasks is None:
        return tuple(known)
    if not isinstance(tasks, str | Sequence) or not tasks:
        raise UsageError(f"tasks={tasks!r}: expected a task, a list of at least one, or None for all.")
    wanted = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    for task in wanted:
        if task not in known:
            raise unknown(f"task of {source}", task, known)
    return tuple(task for task in known if task in wanted)


def draw(
    records: Sequence[PromptRecord], n: int | None, *, seed: int, order: Order, source: str
) -> list[PromptRecord]:
    """Return n records in the order of the set.

    Args:
        records: The set.
        n: How many; None for all.
        seed: Keys the draw.
        order: "stratified" draws tasks in equal shares (a task that has too few gives all, the others fill
            up); "file" takes the first n as they stand.
        source: For messages.

    Raises:
        UsageError: More are asked for than there are.
    """
    if order not in get_args(Order):
        raise unknown("order", order, get_args(Order))
    if n is None:
        return list(records)
    if not 1 <= n <= len(records):
        raise UsageError(
            f"Asked for {n} prompts, but {source} has {len(records)}. Expected 1 to {len(records)}; for more "
            "images use several seeds."
        )
    if order == "file":
        return list(records[:n])
    chosen = {id(record) for record in _in_turn(records, n, seed)}
    return [record for record in records if id(record) in chosen]


def _in_turn(records: Sequence[PromptRecord], n: int, seed: int) -> list[PromptRecord]:
    """Draw n records, one task after the other in a keyed order of the tasks."""
    tasks = sorted({record.task for record in records}, key=lambda task: _key(seed, "task", task))
    queues = [keyed([record for record in records if record.task == task], seed) for task in tasks]
    rounds = range(max(map(len, queues)))
    return [queue[turn] for turn in rounds for queue in queues if turn < len(queue)][:n]
