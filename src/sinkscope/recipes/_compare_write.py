"""A comparison as a file (csv with everything, md or tex for reading) and as the table of a terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.errors import UsageError

SUFFIXES = (".csv", ".md", ".tex")
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def check_path(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        UsageError: Its ending is not known, or its folder does not exist.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out {path}: expected a name that ends in {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.parent} does not exist. Make it first.")


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write a comparison: .csv holds all columns, .md and .tex the readable ones."""
    check_path(path)
    if path.suffix == ".csv":
        text = frame.to_csv(index=False)
    elif path.suffix == ".md":
        text = _markdown(frame)
    else:
        text = _tex(frame)
    path.write_text(text, encoding="utf-8")


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns one reads, numbers with their intervals as text; empty where there is nothing."""
    rows = _rows(frame)
    columns = {
        "task": frame["task"],
        "metric": frame["metric"],
        "quantity": frame["quantity"],
        "arm": [_contrast(row) for row in rows],
        "ours": [_interval(row, "ours") for row in rows],
        "n": ["" if pd.isna(n) else str(n) for n in frame["n"]],
        "verdict": frame["verdict"].fillna(""),
        "published": [_published(row) for row in rows],
        "n published": ["" if pd.isna(n) else str(n) for n in frame["published_n"]],
    }
    found = pd.DataFrame(columns)
    return found.drop(columns="task") if (frame["task"] == "all").all() else found


def title(frame: pd.DataFrame) -> str:
    """One line: which preset, on which model and prompts, beside what."""
    first = frame.iloc[0]
    scale = f", {first['scale']} scale" if first["scale"] else ""
    theirs = ", ".join(sorted({model for model in frame["published_model"] if model})) or "nothing stated"
    return (
        f"{first['preset']} ({first['variant']}{scale}): ours on {first['model']}, {first['prompts']}; "
        f"published on {theirs}"
    )


def _contrast(row: dict[str, Any]) -> str:
    arm = row["arm"] or ""
    words = f"{arm} {_SIGN.get(row['quantity'], '-')} {row['reference']}" if row["reference"] else arm
    return f"{words} ({row['at']})" if row["at"] else words


_SIGN = {"ratio": "/"}


def _interval(row: dict[str, Any], name: str) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    # As many digits as are stated; of ours four.
    digits = ".4g" if name == "ours" else ".6g"
    if _missing(value):
        return "" if _missing(low) else f"{low:{digits}} to {high:{digits}}"
    ends = "" if _missing(low) else f" [{low:{digits}}, {high:{digits}}]"
    return f"{value:{digits}}{ends}"


def _published(row: dict[str, Any]) -> str:
    text = _interval(row, "published")
    relation = row["relation"]
    shown = f"{relation} {text}" if text and relation not in ("", "=") else text
    p = row["published_p"]
    words = [shown, f"p {p}" if p.startswith("<") else f"p = {p}" if p else "", row["claim"]]
    return "; ".join(word for word in words if word)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _markdown(frame: pd.DataFrame) -> str:
    table = readable(frame)
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy(str).tolist()]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    remarks = [f"- {words}: {note}" for words, note in notes(frame)]
    return (
        "\n".join([f"{title(frame)}", "", *lines, *(["", "Notes", "", *remarks] if remarks else [])]) + "\n"
    )


def _tex(frame: pd.DataFrame) -> str:
    table = readable(frame)
    head = " & ".join(_escaped(name) for name in table.columns)
    body = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in table.to_numpy(str).tolist()]
    remarks = [f"% {words}: {note}" for words, note in notes(frame)]
    return "\n".join(
        [
            "% " + title(frame),
            *remarks,
            rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
            r"\hline",
            head + r" \\",
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )


def notes(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """What a row is, and its note, for rows that have one."""
    return [
        (" ".join(word for word in (row["metric"], row["quantity"], _contrast(row)) if word), row["note"])
        for row in _rows(frame)
        if row["note"]
    ]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _escaped(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
