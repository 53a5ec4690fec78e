"""The generated tables of README.md and docs/families.md: `python -m sinkscope.models.families PAGE ...`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

from ...errors import UsageError
from ._known import known_families, supported

WIDTH = 110
START, STOP = "<!-- generated: {name} -->", "<!-- end of generated: {name} -->"


def short_table() -> str:
    """Names by group, for the README: what is seen whole, and what is seen in part."""
    rows, lines = known_families(), []
    for group in dict.fromkeys(row["group"] for row in rows):
        titles = [
            row["model"] + (f" ({row['kinds']} only)" if row["not_seen"] else "")
            for row in rows
            if row["group"] == group
        ]
        lines.append(f"| {group} | {', '.join(dict.fromkeys(titles))} |")
    return "\n".join(["| group | models |", "| --- | --- |", *lines])


def long_table() -> str:
    """One list per group, for docs/families.md."""
    rows, lines = known_families(), []
    for group in dict.fromkeys(row["group"] for row in rows):
        lines += [f"### {group}", ""]
        for row in (row for row in rows if row["group"] == group):
            lines += _wrapped(_entry(row))
        lines.append("")
    return "\n".join([*lines, *_remarks(rows)]).rstrip()


def _entry(row: dict[str, str]) -> str:
    guidance = "" if row["guidance"] == "none" else f" Guidance: {row['guidance']}."
    refused = f" Only in part: the rest {row['not_seen']}." if row["not_seen"] else ""
    return (
        f"- **{row['model']}** (`{row['class']}`): {row['kinds']}. Keys: {_widest(row['keys'])}."
        f"{guidance}{refused}"
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _widest(orders: str) -> str:
    """Orders without those whose segments another one has too."""
    sets = {order: set(order.split(", ")) for order in orders.split("; ")}
    return "; ".join(order for order, own in sets.items() if not any(own < other for other in sets.values()))


def _remarks(rows: list[dict[str, str]]) -> list[str]:
    versions = " and ".join(f"{name} {version}" for name, version in supported()["seen_with"].items())
    lists = {
        "Text tokens without strings: ": [
            row["model"] for row in rows if row["text"] == "no" and "text" in row["keys"]
        ],
        "Tested as a module alone, not as a pipeline: ": [
            row["model"] for row in rows if row["tested"] == "module alone"
        ],
        "Tokens not known from the configuration alone: ": [
            row["model"] for row in rows if row["tokens_from_config"] == "no"
        ],
    }
    found = [f"Seen with {versions}.", ""]
    for head, items in lists.items():
        if items:
            found += _wrapped(f"- {head}{', '.join(dict.fromkeys(items))}.")
    return found


TABLES: dict[str, Callable[[], str]] = {"supported models": short_table, "families": long_table}


def renewed(text: str) -> str:
    """A page with its generated parts made anew.

    Raises:
        UsageError: the page has no generated part.
    """
    found = False
    for name, table in TABLES.items():
        start, stop = START.format(name=name), STOP.format(name=name)
        if start in text and stop in text:
            before, after = text.split(start)[0], text.split(stop)[1]
            text, found = f"{before}{start}\n\n{table()}\n\n{stop}{after}", True
    if not found:
        expected = " or ".join(START.format(name=name) for name in TABLES)
        raise UsageError(f"The page has no generated part, expected a line {expected} and its end.")
    return text


def renew(path: Path) -> None:
    """Write the generated parts of a page anew."""
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
