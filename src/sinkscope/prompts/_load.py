"""Prompt sets by name or path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from sinkscope.errors import UsageError, unknown
from sinkscope.prompts._draw import Order, draw, of_tasks
from sinkscope.prompts._files import SUFFIXES, read_file
from sinkscope.prompts._geneval import geneval, geneval_balanced
from sinkscope.prompts._record import PromptRecord, checked, first_of_each
from sinkscope.prompts._shapes import shapes_prompts

NAMES = ("shapes", "geneval", "geneval-balanced")
Repeats: TypeAlias = Literal["refuse", "drop"]


def load(
    source: str | Path | Sequence[str | PromptRecord],
    n: int | None = None,
    *,
    seed: int = 0,
    tasks: str | Sequence[str] | None = None,
    order: Order = "stratified",
    split: str = "seen",
    repeats: Repeats = "refuse",
) -> list[PromptRecord]:
    """Return prompt records, in the order of the set.

    Example:
        >>> from collections import Counter
        >>> records = load("geneval", 12, seed=1)
        >>> sorted(Counter(record.task for record in records).items())[:2]
        [('color_attr', 2), ('colors', 2)]
        >>> load("geneval")[180].text
        'a photo of two backpacks'

    Args:
        source: "shapes", "geneval" (553 prompts), "geneval-balanced" (100 of them, shuffled; our draw with
            the paper's number per task), the path of a prompt file, or the prompts themselves.
        n: How many. None for all.
        seed: Keys the draw: the same seed gives the same prompts, and a larger n keeps those of a smaller
            one. Of "geneval-balanced" it also keys which 100 there are.
        tasks: Use these tasks only.
        order: "stratified": tasks in equal shares, a task with too few gives all. "file": the first n as
            they stand, to repeat a published study that took them; files sorted by task then give few tasks.
        split: For "shapes": "seen", "heldout" or "all".
        repeats: What to do with a text that occurs again: "refuse", or "drop" all but the first.

    Raises:
        UsageError: Unknown set or task, unreadable file, empty or duplicate prompts, more prompts asked for
            than there are.
        SinkscopeError: GenEval cannot be generated with this NumPy.
    """
    _check(n, seed, repeats)
    if split != "seen" and source != "shapes":
        raise UsageError(f"split={split!r} is of 'shapes' only; {str(source)!r} has no splits. Leave it out.")
    if isinstance(source, str) and source == "shapes" and order == "stratified":
        return checked(shapes_prompts(n, seed=seed, split=split, tasks=tasks), "shapes")
    records, name = _everything(source, seed, split)
    if repeats == "drop":
        records = first_of_each(records)
    records = of_tasks(checked(records, name), tasks, name)
    words = name if tasks is None else f"{name} with those tasks"
    return draw(records, n, seed=seed, order=order, source=words)


def _everything(
    source: str | Path | Sequence[str | PromptRecord], seed: int, split: str
) -> tuple[list[PromptRecord], str]:
    """All records of a source, and its name for messages."""
    if isinstance(source, str | Path):
        if str(source) == "shapes":
            return shapes_prompts(None, seed=seed, split=split), "shapes"
        if str(source) == "geneval":
            return geneval(), "geneval"
        if str(source) == "geneval-balanced":
            return geneval_balanced(seed), "geneval-balanced"
        return _from_file(str(source)), str(source)
    if not isinstance(source, Iterable) or isinstance(source, bytes | Mapping):
        raise UsageError(
            f"Got {source!r} as prompts: expected {', '.join(map(repr, NAMES))}, the path of a file, or a "
            "list of texts."
        )
    return [_record(index, item) for index, item in enumerate(source)], "the list of prompts"


def _from_file(name: str) -> list[PromptRecord]:
    path = Path(name).expanduser()
    if not name.strip() or (path.suffix.lower() not in SUFFIXES and not path.exists()):
        error = unknown("prompt set", name, (*NAMES, f"or the path of a {', '.join(SUFFIXES)} file"))
        raise UsageError(f"{error} To use texts themselves as prompts, give a list of them.")
    return read_file(path)


def _record(index: int, item: object) -> PromptRecord:
    if isinstance(item, PromptRecord):
        return item
    if not isinstance(item, str):
        raise UsageError(f"Prompt {index} is {item!r}: expected a text or a PromptRecord.")
    return PromptRecord(f"{index:05d}", item)


def _check(n: object, seed: object, repeats: object) -> None:
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if name == "n" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise UsageError(f"{name}={value!r}: expected a whole number from {least}.")
    if repeats not in get_args(Repeats):
        raise unknown("way to treat repeats", repeats, get_args(Repeats))
