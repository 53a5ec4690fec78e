"""The verdict table and the scoreboard under the headline, as words and numbers ready to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sinkscope.report import _metrics as metrics
from sinkscope.report._arms import Arm
from sinkscope.report._fig_effects import order_rows
from sinkscope.report._format import NOT_AVAILABLE, count, estimate, is_missing, number, p_value


@dataclass(frozen=True)
class Verdict:
    """One contrast of one metric as printed; `tasks` are the same contrast within each task."""

    label: str
    kind: str
    n: str
    levels: str
    effect: str
    interval: str
    p_holm: str
    margin: str
    p_tost: str
    verdict: str
    note: str
    method: str = ""
    """How the interval was made."""
    tasks: list[Verdict] = field(default_factory=list)


def verdicts(effects: pd.DataFrame, arms: Mapping[str, Arm]) -> dict[str, list[Verdict]]:
    """Metric -> contrasts over all tasks, each with its tasks."""
    found: dict[str, list[Verdict]] = {}
    for metric in metrics.order([str(m) for m in effects["metric"].drop_duplicates()]):
        part = effects[effects["metric"] == metric]
        whole = order_rows(part[part["task"] == "all"], arms)
        rows = []
        for row in whole.to_dict("records"):
            same = (
                (part["arm"] == row["arm"])
                & (part["reference"] == row["reference"])
                & (part["kind"] == row["kind"])
            )
            tasks = part[same & (part["task"] != "all")].sort_values("task").to_dict("records")
            rows.append(
                _verdict(
                    row,
                    f"{row['arm']} \u2212 {row['reference']}",
                    [_verdict(t, str(t["task"])) for t in tasks],
                )
            )
        found[metric] = rows
    return found


INTERVALS = {
    "proportions": "score interval for paired proportions (Tango)",
    "combined": "the wider of Student's t and the bootstrap-t at each end",
    "bca": "BCa bootstrap",
    "studentised": "bootstrap-t",
    "percentile": "percentile bootstrap",
    "t": "Student's t",
}


def intervals(rows: Sequence[Verdict]) -> str:
    """How the intervals of a metric were made, in words; empty where the run does not say."""
    names = list(dict.fromkeys(row.method for row in rows if row.method))
    return "; ".join(INTERVALS.get(name, name) for name in names)


def shared_notes(rows: Sequence[Verdict]) -> list[str]:
    """Remarks that hold for every contrast of a metric, to be printed once."""
    sets = [v.note.split("; ") for v in rows if v.note]
    return [n for n in sets[0] if all(n in s for s in sets)] if len(sets) == len(rows) > 1 else []


def own_note(row: Verdict, shared: Sequence[str]) -> str:
    """The remarks of a contrast that are not shared by all."""
    return "; ".join(n for n in row.note.split("; ") if n and n not in shared)


def _verdict(row: Mapping[Any, Any], label: str, tasks: list[Verdict] | None = None) -> Verdict:
    margin = row.get("margin")
    means = [number(row.get(c)) for c in ("mean_reference", "mean_arm")]
    units = "" if is_missing(row.get("n_units")) else f" / {int(row['n_units'])}"
    note = row.get("note")
    effect, span = estimate(row["effect"], row["ci_low"], row["ci_high"])
    return Verdict(
        label=label,
        kind=str(row["kind"]),
        n=NOT_AVAILABLE if is_missing(row.get("n_prompts")) else f"{int(row['n_prompts'])}{units}",
        levels=NOT_AVAILABLE if NOT_AVAILABLE in means else " \u2192 ".join(means),
        effect=effect,
        interval=span,
        p_holm=p_value(row.get("p_holm")),
        margin="none declared" if is_missing(margin) else f"\u00b1{number(margin)}",
        p_tost=p_value(row.get("p_tost")),
        verdict=str(row["verdict"]) if not is_missing(row["verdict"]) else NOT_AVAILABLE,
        note="" if is_missing(note) else str(note),
        method="" if is_missing(row.get("interval")) else str(row["interval"]),
        tasks=tasks or [],
    )


@dataclass(frozen=True)
class Board:
    """Sink removal minus random removal: one row per metric, one cell per budget."""

    doses: list[str]
    rows: list[tuple[str, list[tuple[str, str, str] | None]]]
    n: str


def board(rows: Sequence[Mapping[Any, Any]], arms: Mapping[str, Arm]) -> Board | None:
    """The scoreboard under the headline, from the rows of `specific_rows`; None when nothing was compared."""
    if not rows:
        return None
    ordered = sorted(rows, key=lambda r: arms[r["arm"]].budget or 0)
    names = list(dict.fromkeys((str(r["arm"]), str(r["reference"])) for r in ordered))
    several = len({arm for arm, _ in names}) < len(names)
    cells: dict[str, dict[tuple[str, str], tuple[str, str, str]]] = {}
    for r in rows:
        effect, span = estimate(r["effect"], r["ci_low"], r["ci_high"])
        cells.setdefault(str(r["metric"]), {})[str(r["arm"]), str(r["reference"])] = (
            effect,
            span,
            str(r["verdict"]),
        )
    counts = sorted({int(r["n_prompts"]) for r in rows if not is_missing(r.get("n_prompts"))})
    n = (
        count(counts[-1], "prompt")
        if len(counts) == 1
        else " to ".join(map(str, counts[:: max(1, len(counts) - 1)])) + " prompts"
    )
    said = [
        (metrics.metric_name(m, capital=True), [per.get(name) for name in names]) for m, per in cells.items()
    ]
    doses = [arms[arm].dose + (f" against {reference}" if several else "") for arm, reference in names]
    return Board(doses, said, n if counts else f"number of prompts {NOT_AVAILABLE}")
