"""Prompt files: which column is the prompt, which the task, what becomes metadata.

Known by their columns: GenEval's `evaluation_metadata.jsonl` (prompt, tag), PartiPrompts (Prompt, Category,
Challenge), COCO captions (`annotations` of a .json), and any table with a prompt column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sinkscope.errors import UsageError
from sinkscope.prompts._readers import READERS
from sinkscope.prompts._record import PromptRecord

SUFFIXES = tuple(READERS)
# Compared in lower case, the first that is there.
TEXT_COLUMNS = ("prompt", "text", "caption", "prompts")
TASK_COLUMNS = ("task", "tag", "category")


def read_file(path: Path) -> list[PromptRecord]:
    """Read prompts from a file.

    Plain text has one prompt a line (blank lines are skipped). The others need a column named prompt, text or
    caption; task, tag or category names the stratum, id the prompt, and all columns become metadata.

    Raises:
        UsageError: The file is absent, of an unknown kind, damaged, or has no prompt column.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(
            f"The prompt file {path} {what}. Expected a file ending in {', '.join(SUFFIXES)}; "
            "paths are relative to the working directory."
        )
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"Cannot read prompts from {path.name}. Expected a file ending in {', '.join(SUFFIXES)}."
        )
    try:
        rows = list(reader(path))
    except (ValueError, OSError) as error:
        kind = path.suffix.lower()[1:]
        form = "" if kind == "parquet" else "UTF-8 "
        raise UsageError(f"Cannot read {path}: {error}. Expected {form}{kind} with prompts.") from error
    return [_record(row, i, path) for i, row in enumerate(rows)]


def _record(row: Mapping[str, Any], index: int, path: Path) -> PromptRecord:
    column = _column(row, TEXT_COLUMNS)
    where = f"Row {index + 1} of {path.name}"
    if column is None:
        raise UsageError(
            f"{where} has no prompt: columns are {', '.join(map(str, row))}. "
            f"Expected one of {', '.join(TEXT_COLUMNS)}."
        )
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        raise UsageError(
            f"{where} has {text!r} as {column}: expected a text. Remove the row or write a prompt."
        )
    text = text.strip()
    task = _column(row, TASK_COLUMNS)
    name = _column(row, ("id",))
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return PromptRecord(
        id=f"{index:05d}-{digest}" if name is None else str(row[name]),
        text=text,
        task="prompt" if task is None else str(row[task]),
        metadata={key: value for key, value in row.items() if value is not None},
    )


def _column(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of the names, in any case, that a row has something in; else one it has at all."""
    by_name: dict[str, str] = {}
    for column in row:
        by_name.setdefault(str(column).strip().lower(), column)
    there = [by_name[name] for name in names if name in by_name]
    filled = [column for column in there if row[column] not in (None, "")]
    if filled:
        return filled[0]
    return there[0] if there and "prompt" in names else None
