"""One prompt with what is known about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sinkscope.errors import UsageError


@dataclass(frozen=True)
class PromptRecord:
    """A prompt.

    Attributes:
        id: Name within its set, safe in file names.
        text: The prompt itself.
        task: Stratum, for example a GenEval task; "prompt" when the source has none.
        metadata: GenEval clauses (`include`, `exclude`) where known, and whatever else the source says.
    """

    id: str
    text: str
    task: str = "prompt"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise UsageError(
                f"Prompt {self.id!r} is empty. Expected text; remove the line or write a prompt."
            )
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", self.id) or self.id.strip(".") == "":
            raise UsageError(
                f"Prompt id {self.id!r} cannot name a file. Expected 1 to 80 letters, digits, '_', '.', '-'."
            )


def same_text(text: str) -> str:
    """Return the text by which two prompts count as the same: white space does not tell them apart."""
    return " ".join(text.split())


def first_of_each(records: Iterable[PromptRecord]) -> list[PromptRecord]:
    """Return the records without those whose text came before."""
    found: dict[str, PromptRecord] = {}
    for record in records:
        found.setdefault(same_text(record.text), record)
    return list(found.values())


def checked(records: Iterable[PromptRecord], source: str) -> list[PromptRecord]:
    """Return the records; refuse an empty set, a repeated text and a repeated id."""
    found = list(records)
    if not found:
        raise UsageError(f"No prompts in {source}. Expected at least one.")
    _refuse_repeats({i: same_text(record.text) for i, record in enumerate(found)}, found, "text", source)
    _refuse_repeats({i: record.id for i, record in enumerate(found)}, found, "id", source)
    return found


def _refuse_repeats(values: Mapping[int, str], found: list[PromptRecord], what: str, source: str) -> None:
    seen: dict[str, int] = {}
    repeated = [(seen[value], i) for i, value in values.items() if seen.setdefault(value, i) != i]
    if repeated:
        first, second = repeated[0]
        more = f", and {len(repeated) - 1} more" if len(repeated) > 1 else ""
        remedy = (
            'Remove the repeats; in Python load(..., repeats="drop") keeps the first of each. For several '
            "images of one prompt use several seeds."
            if what == "text"
            else "Give every prompt its own id, or none."
        )
        raise UsageError(
            f"Duplicate prompt {what} in {source}: {values[second]!r} ({found[first].id} at position "
            f"{first + 1} and {found[second].id} at {second + 1}{more}). Expected every prompt once: repeats "
            f"would count as independent evidence. {remedy}"
        )
