"""Which tokens are the sinks, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sinkscope.report import _dynamics as dynamics
from sinkscope.report._format import count, interval, listing, percent, times
from sinkscope.report._words import Finding, Point

STRONG = 5.0
TEXT_ROLES = {
    "bos": "beginning-of-text tokens", "eos": "end-of-text tokens", "pad": "text padding tokens",
    "content": "prompt word tokens", "template": "template tokens",
}  # fmt: skip
BRANCH_WORDS = {"cond": "conditional branch", "uncond": "unconditional branch", "none": "no guidance"}


def sinks(traces: pd.DataFrame | None, summary: pd.DataFrame | None, scores: pd.DataFrame | None) -> Finding:
    """Share of the strongest keys by segment and role; their mass against uniform per layer; the tokens."""
    question = "Which tokens are the sinks?"
    points: list[Point] = []
    answer = "Not measured: the run recorded no attention (no traces)."
    note = []
    if traces is not None and len(dynamics.top_rows(traces)):
        answer, points = _identity(traces, scores)
        note.append(_sample(traces))
    elif traces is not None:
        answer = "Not measured: the traces hold no rows of the baseline arm."
    if summary is not None and len(dynamics.in_branch(summary)):
        strength = _strength(summary, scores)
        answer = (
            f"{answer} {strength[0].text}"
            if points
            else strength[0].text + " Which tokens they are was not recorded."
        )
        points += strength[1:]
    return Finding(question, answer, points, " ".join(note))


def _sample(traces: pd.DataFrame) -> str:
    top = dynamics.top_rows(traces)
    units = f" of {count(top['unit'].nunique(), 'unit')}" if "unit" in top.columns else ""
    names = dynamics.branches(dynamics.baseline_rows(traces))
    branch = f", {BRANCH_WORDS.get(names[0], names[0])}" if names else ""
    many = count(len(top), "call and head", "calls and heads")
    return f"Baseline arm{branch}: the strongest key of {many}{units}. Intervals: 95 % t over prompts."


def _identity(traces: pd.DataFrame, scores: pd.DataFrame | None) -> tuple[str, list[Point]]:
    table = dynamics.kind_table(traces, scores).sort_values("share", ascending=False)
    first = table.iloc[0]
    share = f"{percent(first['share'])} of the strongest keys"
    sure = first["low"] > 0.5
    answer = (
        f"Mostly {say(first['kind'])}: {share}."
        if sure
        else f"No kind clearly holds the majority; {say(first['kind'])} lead with {share}."
    )
    points = [
        _share_point(r)
        for r in table.to_dict("records")
    ]  # fmt: skip
    tokens = dynamics.frequent(traces, 1)
    named = tokens[tokens["named"]] if len(tokens) else tokens
    if len(named):
        top = named.iloc[0]
        where = f" ({top['kind']}, {top['encoder']})" if top["encoder"] else f" ({top['kind']})"
        points.append(
            Point(
                "Most frequent token",
                f"\u201c{top['label']}\u201d{where}, {percent(top['share'])} of strongest keys",
            )
        )
    return answer, points


def _share_point(row: Mapping[Any, Any]) -> Point:
    share = f"{percent(row['share'])} {_shares(row['low'], row['high'])} of strongest keys"
    return Point(_first(say(row["kind"])), f"{share}, n = {count(row['prompts'], 'prompt')}")


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _shares(low: float, high: float) -> str:
    return interval(100 * low, 100 * high, signed=False)


def say(kind: str) -> str:
    """`text: bos` -> "beginning-of-text tokens"."""
    segment, _, role = kind.partition(": ")
    if segment == "text" and role in TEXT_ROLES:
        return TEXT_ROLES[role]
    return f"{role} tokens of {segment}" if role else f"{segment} tokens"


def _ratio(row: Mapping[Any, Any]) -> float:
    return float(row["ratio"])


def _place(row: Mapping[Any, Any]) -> str:
    return f"layer {row['place']}" if str(row["place"]).isdigit() else str(row["place"])


def _strength(summary: pd.DataFrame, scores: pd.DataFrame | None) -> list[Point]:
    """First the sentence for the answer, then the points."""
    table = dynamics.by_place(summary, scores)
    records = table.to_dict("records")
    high, low = max(records, key=_ratio), min(records, key=_ratio)
    lead = f"The strongest key of a head receives {times(high['ratio'])} uniform in {_place(high)}"
    lead += f" and {times(low['ratio'])} in {_place(low)}." if len(table) > 1 else "."
    points = [Point("", lead)]
    for word, row in (("Strongest", high), ("Weakest", low)):
        span = interval(row["low"], row["high"], signed=False)
        text = f"{times(row['ratio'])} uniform {span}, n = {count(row['prompts'], 'prompt')}"
        text += f", {row['keys']:.0f} keys"
        text += f"; peak {times(row['peak_ratio'])} at step {row['peak_step']:.0f}"
        points.append(Point(f"{word}: {_place(row)}", text))
    strong = [str(p) for p in table.loc[table["ratio"] >= STRONG, "place"]]
    all_ = len(table)
    said = (
        f"reached in {len(strong)} of {all_} layers ({listing(strong)})"
        if strong
        else f"not reached in any of {all_} layers"
    )
    points.append(Point(f"{STRONG:.0f} times uniform", f"{said}, averaged over steps"))
    return points
