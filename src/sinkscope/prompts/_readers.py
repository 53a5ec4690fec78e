"""One reader per kind of prompt file: a path in, rows of plain data out. They raise ValueError or OSError."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def _content(path: Path) -> str:
    # A byte order mark, as spreadsheets write it, would become part of the first column's name.
    return path.read_text(encoding="utf-8-sig")


def text(path: Path) -> Iterator[Row]:
    """One prompt a line; blank lines are skipped."""
    yield from ({"prompt": line.strip()} for line in _content(path).split("\n") if line.strip())


def jsonl(path: Path) -> Iterator[Row]:
    """One object a line; blank lines are skipped."""
    # Not splitlines(): JSON allows U+2028 and the like inside a text.
    for number, line in enumerate(_content(path).split("\n"), start=1):
        if line.strip():
            yield _object(_parsed(line, f"line {number}: "), f"line {number}")


def document(path: Path) -> Iterator[Row]:
    """COCO captions (an object with `annotations`), or a list of texts or objects."""
    data = _parsed(_content(path), "")
    if isinstance(data, dict) and isinstance(data.get("annotations"), list):
        yield from _coco(data["annotations"])
    elif isinstance(data, list):
        for number, item in enumerate(data, start=1):
            yield {"prompt": item} if isinstance(item, str) else _object(item, f"entry {number}")
    else:
        raise ValueError("it holds neither a list of prompts nor COCO's annotations")


def _coco(annotations: Iterable[Any]) -> Iterator[Row]:
    """The first caption (lowest id) of every image, by image id."""
    first: dict[int, Row] = {}
    for number, item in enumerate(annotations, start=1):
        row = _object(item, f"annotation {number}")
        for name in ("image_id", "id", "caption"):
            if name not in row:
                raise ValueError(f"annotation {number} has no {name!r}: it is no file of COCO captions")
        if not isinstance(row["image_id"], int) or not isinstance(row["id"], int):
            raise ValueError(f"annotation {number}: image_id and id must be whole numbers")
        known = first.get(row["image_id"])
        if known is None or row["id"] < known["annotation_id"]:
            others = {name: value for name, value in row.items() if name != "id"}
            about = {"id": f"coco-{row['image_id']:012d}", "annotation_id": row["id"]}
            first[row["image_id"]] = {**others, **about}
    yield from (first[image] for image in sorted(first))


def comma_separated(path: Path) -> Iterator[Row]:
    """A header line, then one row a line; quoting as spreadsheets do it."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from _table(csv.reader(stream, strict=True))


def tab_separated(path: Path) -> Iterator[Row]:
    """A header line, then one row a line, without quoting, as PartiPrompts is written.

    Read as quoted, a prompt such as `"Fly an airplane" on a wall` would silently lose its quotes. A field
    that some program has quoted because it holds quotes (doubled inside) is unquoted.
    """
    lines = _content(path).split("\n")
    yield from _table([_unquoted(field) for field in line.split("\t")] if line else [] for line in lines)


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    quoted = len(field) > 1 and field[0] == field[-1] == '"'
    if quoted and '""' in inner and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _table(rows: Iterable[list[str]]) -> Iterator[Row]:
    header: list[str] | None = None
    try:
        for number, row in enumerate(rows, start=1):
            if not any(field.strip() for field in row):
                continue
            if header is None:
                header = [name.strip() for name in row]
            elif len(row) != len(header):
                raise ValueError(f"row {number} has {len(row)} columns, the header has {len(header)}")
            else:
                yield dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(error) from error


def parquet(path: Path) -> Iterator[Row]:
    """Rows of a parquet file; columns that hold bytes (images) are left out, and so is what is missing."""
    import pyarrow.parquet as pq

    names = [field.name for field in pq.read_schema(path) if not _holds_bytes(field.type)]
    table = pq.read_table(path, columns=names)
    yield from (_plain(row) for row in table.to_pylist())


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as of

    if of.is_binary(kind) or of.is_large_binary(kind) or of.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))


def _plain(value: Any) -> Any:
    """Data that YAML and JSON can hold; entries without a value are left out of mappings."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _parsed(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}{error.msg} at column {error.colno}") from error


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    return value


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".txt": text,
    ".jsonl": jsonl,
    ".csv": comma_separated,
    ".tsv": tab_separated,
    ".parquet": parquet,
    ".json": document,
}
