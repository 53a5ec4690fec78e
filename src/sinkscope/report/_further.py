"""Further tables of the page: ratios, boundaries, settings, left-out tasks, and distances to the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sinkscope.report import _metrics as metrics
from sinkscope.report._arms import Arm
from sinkscope.report._data import RunData
from sinkscope.report._format import NOT_AVAILABLE, count, estimate, is_missing, number, p_value, percent
from sinkscope.report._tables import Table

Row = Mapping[Any, Any]
SHORT = 20
"""Rows up to which a table is shown unfolded."""


@dataclass(frozen=True)
class Further:
    """One table with what it says; long ones are folded away."""

    title: str
    words: str
    table: Table
    folded: bool


def further(data: RunData, arms: Mapping[str, Arm]) -> list[Further]:
    """Every further table that the run folder holds."""
    makers = (
        ("ratios", ratios),
        ("boundary", boundary),
        ("double_effects", double_effects),
        ("distances", distances),
        ("leave_one_out", leave_one_out),
    )
    found = [make(frame) for name, make in makers if (frame := data.table(name)) is not None]
    found.append(to_baseline(data.table("scores"), arms))
    return [entry for entry in found if entry is not None]


def ratios(frame: pd.DataFrame) -> Further | None:
    """How many times as far from the baseline's image as its control."""
    rows = [
        [
            metrics.metric_name(str(r["metric"]), capital=True),
            f"{r['arm']} / {r['reference']}",
            _times(r["ratio"]),
            NOT_AVAILABLE if is_missing(r["ci_low"]) else f"[{_times(r['ci_low'])}, {_times(r['ci_high'])}]",
            _n(r),
            _text(r.get("note")),
        ]
        for r in _whole(frame)
    ]
    words = (
        "Mean distance to the baseline's image, the edit's over its control's. Interval over prompts: the "
        "wider of Fieller's and the bootstrap-t at each end."
    )
    return _made(
        "Times as far as the control",
        words,
        ["metric", "arms", "ratio", "interval", "prompts", "remark"],
        rows,
        frozenset({2, 3, 4}),
    )


def boundary(frame: pd.DataFrame) -> Further | None:
    """At which dose the margin is left."""
    rows = []
    for r in _whole(frame):
        series = "edit" if r["series"] == "edit" else "control"
        arms = str(r.get("arms" if series == "edit" else "controls") or series)
        open_ = f"{_dose(r['threshold_low'])} to {_dose(r['threshold_high'])}"
        rows.append(
            [
                metrics.metric_name(str(r["metric"]), capital=True),
                arms,
                f"\u00b1{number(r['margin'])}",
                "no dose" if is_missing(r["within"]) else _dose(r["within"]),
                _dose(r["threshold"]),
                open_,
                "not reached" if is_missing(r["boundary"]) else _dose(r["boundary"]),
                _text(r.get("note")),
            ]
        )
    words = (
        "Doses are budgets. Shown inside: every dose up to here has its whole interval inside the margin. "
        "Mean leaves: the smallest dose whose mean is beyond, with the doses the data leave open. Shown "
        "beyond: the smallest dose whose whole interval is beyond."
    )
    columns = ["metric", "arms", "margin", "shown inside", "mean leaves at", "open", "shown beyond", "remark"]
    return _made("Where the margin is left", words, columns, rows, frozenset({2, 3, 4, 5, 6}))


def double_effects(frame: pd.DataFrame) -> Further | None:
    """The same edit under two settings."""
    rows = []
    for r in _whole(frame):
        effect, span = estimate(r["effect"], r["ci_low"], r["ci_high"])
        rows.append(
            [
                metrics.metric_name(str(r["metric"]), capital=True),
                f"{r['edit']} ({number(r['effect_edit'], signed=True)}) \u2212 {r['control']} "
                f"({number(r['effect_control'], signed=True)})",
                effect,
                span,
                p_value(r.get("p_holm")),
                str(r["verdict"]),
                _n(r),
                _text(r.get("note")),
            ]
        )
    words = "Each arm's effect against its own unedited arm in brackets, and the difference of both."
    columns = ["metric", "effects", "difference", "interval", "p (Holm)", "verdict", "prompts", "remark"]
    return _made("The same edit under other settings", words, columns, rows, frozenset({2, 3, 4, 6}))


def distances(frame: pd.DataFrame) -> Further | None:
    """Distances between arms as sets of images."""
    rows = []
    for r in frame.to_dict("records"):
        ok = str(r["status"]) == "ok"
        interval = f"[{number(r['ci_low'])}, {number(r['ci_high'])}]"
        rows.append(
            [
                NAMES.get(str(r["metric"]), str(r["metric"])),
                f"{r['arm']} against {r['reference']}",
                number(r["value"]) if ok else NOT_AVAILABLE,
                interval if ok else NOT_AVAILABLE,
                p_value(r.get("p_swap")),
                _text(r.get("n_units")),
                _text(r.get("note")) if ok else str(r["status"]),
            ]
        )
    words = (
        "How far all images of an arm lie from all images of the other. Swap test: p that both can be "
        "exchanged within every prompt. Features: " + "; ".join(_backbones(frame)) + "."
    )
    columns = ["distance", "arms", "value", "interval", "p (swap)", "images", "remark"]
    return _made("Distances between sets of images", words, columns, rows, frozenset({2, 3, 4, 5}))


NAMES = {"kid": "KID", "cmmd": "CMMD", "fd_dinov2": "FD (DINOv2)", "fd_clip": "FD (CLIP)"}


def leave_one_out(frame: pd.DataFrame) -> Further | None:
    """Contrasts without one task at a time; first how often a verdict hangs on one task."""
    rows = []
    changed = 0
    for r in frame.to_dict("records"):
        effect, span = estimate(r["effect"], r["ci_low"], r["ci_high"])
        changes = bool(r["changes"])
        changed += changes
        rows.append(
            [
                metrics.metric_name(str(r["metric"]), capital=True),
                f"{r['arm']} \u2212 {r['reference']}",
                str(r["left_out"]),
                effect,
                span,
                str(r["verdict"]) + (f" (with it: {r['verdict_all']})" if changes else ""),
                _n(r),
            ]
        )
    total = len(rows)
    said = "no verdict changes" if not changed else f"{changed} of {count(total, 'verdict')} change"
    words = f"The effects over all prompts, with one task left out at a time: {said}."
    columns = ["metric", "contrast", "without", "effect", "interval", "verdict", "prompts"]
    return _made("Without one task", words, columns, rows, frozenset({3, 4, 6}))


def to_baseline(scores: pd.DataFrame | None, arms: Mapping[str, Arm]) -> Further | None:
    """Metrics that are a distance and give no effect (PSNR): mean and range of images that differ at all."""
    if scores is None:
        return None
    rows = []
    for metric in dict.fromkeys(map(str, scores["metric"])):
        if metrics.words(metric).effect:
            continue
        part = scores[(scores["metric"] == metric) & scores["value"].notna()]
        own = part.loc[part["arm"] == "baseline", "value"]
        same = float(own.iloc[0]) if len(own) else math.nan  # the stand-in for identical images
        for arm in [name for name in arms if name != "baseline" and name in set(part["arm"])]:
            values = part.loc[part["arm"] == arm, "value"]
            differ = values[values != same]
            equal = percent(1 - len(differ) / len(values))
            cells = [number(v) if len(differ) else NOT_AVAILABLE for v in _range(differ)]
            rows.append([metrics.metric_name(metric, capital=True), arm, *cells, equal, str(len(values))])
    words = (
        "Larger is closer. An image has no finite value to itself, so there is no effect and no verdict; "
        "images identical to the baseline's are counted apart."
    )
    columns = ["metric", "arm", "mean", "smallest", "largest", "identical", "images"]
    return _made("Distance to the baseline's image", words, columns, rows, frozenset(range(2, 7)))


def _range(values: pd.Series) -> list[float]:
    return [values.mean(), values.min(), values.max()]


def _made(
    title: str, words: str, columns: list[str], rows: list[list[str]], numeric: frozenset[int]
) -> Further | None:
    if not rows:
        return None
    if columns[-1] == "remark" and not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Further(title, words, Table(columns, rows, numeric), len(rows) > SHORT)


def _whole(frame: pd.DataFrame) -> Iterable[Row]:
    return frame[frame["task"] == "all"].to_dict("records")


def _backbones(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame["checkpoint"].dropna().unique()] or [NOT_AVAILABLE]


def _n(row: Row) -> str:
    return NOT_AVAILABLE if is_missing(row.get("n_prompts")) else str(int(row["n_prompts"]))


def _text(value: Any) -> str:
    return "" if is_missing(value) else str(value)


def _times(value: Any) -> str:
    if is_missing(value):
        return NOT_AVAILABLE
    return "\u221e" if math.isinf(float(value)) else f"{number(value)}\u00d7"


def _dose(value: Any) -> str:
    """A budget; infinity stands for one larger than any that was tried."""
    if is_missing(value):
        return NOT_AVAILABLE
    return "none" if math.isinf(float(value)) else f"{float(value):g}"
