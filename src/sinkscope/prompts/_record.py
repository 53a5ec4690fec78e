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


def checked(records: Iterable[PromptRecord], source: str) -> list[PromptRecord]:
    """Return the records; refuse an empty set, a repeated text and a repeated id."""
    found = list(records)
    if not found:
        raise UsageError(f"No prompts in {source}. Expected at least one.")
    for what in ("text", "id"):
        seen: dict[str, str] = {}
        for record in found:
            value = getattr(record, what)
            if value in seen:
                raise UsageError(
                    f"Duplicate prompt {what} in {source}: {value!r} ({seen[value]} and {record.id}). "
                    "Expected every prompt once: repeats would count as independent evidence. Use several "
                    "seeds instead."
                )
            seen[value] = record.id
    return found
