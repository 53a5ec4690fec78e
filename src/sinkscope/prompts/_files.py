"""Readers of prompt files: GenEval's jsonl, plain text, csv, parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.errors import UsageError
from sinkscope.prompts._record import PromptRecord

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_TEXT_COLUMNS = ("prompt", "text", "Prompt", "caption")
_TASK_COLUMNS = ("task", "tag", "Category", "category")


def read_file(path: Path) -> list[PromptRecord]:
    """Read prompts from a file.

    Plain text has one prompt a line (blank lines are skipped). jsonl, csv, tsv and parquet need a column
    named prompt, text or caption; task, tag or category names the stratum and all columns become metadata.

    Raises:
        UsageError: The file is absent, of an unknown kind, damaged, or has no prompt column.
    """
    if not path.is_file():
        raise UsageError(f"No prompt file at {path}. Expected a file ending in {', '.join(SUFFIXES)}.")
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"Cannot read prompts from {path.name}. Expected a file ending in {', '.join(SUFFIXES)}."
        )
    try:
        if path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            rows: list[dict[str, Any]] = [{"prompt": line.strip()} for line in lines if line.strip()]
        else:
            rows = list(_rows(path))
    except (ValueError, OSError) as error:
        raise UsageError(
            f"Cannot read {path}: {error}. Expected UTF-8 {path.suffix[1:]} with one prompt a row."
        ) from error
    return [_record(row, i, path) for i, row in enumerate(rows)]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                yield row
        return
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(
            path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False
        )
    yield from ({str(k): v for k, v in row.items()} for row in table.to_dict("records"))


def _record(row: dict[str, Any], index: int, path: Path) -> PromptRecord:
    column = next((name for name in _TEXT_COLUMNS if name in row), None)
    if column is None:
        raise UsageError(
            f"Row {index + 1} of {path.name} has no prompt: columns are {', '.join(map(str, row))}. "
            f"Expected one of {', '.join(_TEXT_COLUMNS)}."
        )
    text = str(row[column]).strip()
    task = next((str(row[name]) for name in _TASK_COLUMNS if row.get(name)), "prompt")
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    name = str(row.get("id") or f"{index:05d}-{digest}")
    return PromptRecord(name, text, task, row)
