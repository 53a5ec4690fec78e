"""The findings of a run in sentences, built from its numbers and bounded by its verdicts.

Nothing is called a change unless the verdict of that contrast is "different", nothing is called the same
unless it is "equivalent"; everything else is said to be inconclusive. Missing arms and tables are named
instead of guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sinkscope.report import _matching as matching
from sinkscope.report import _metrics as metrics
from sinkscope.report._arms import Arm
from sinkscope.report._format import capital, count, estimate, is_missing, listing, number

Row = Mapping[Any, Any]


@dataclass(frozen=True)
class Point:
    """One line under a finding: what, the numbers, and the verdict of the contrast where there is one."""

    lead: str
    text: str
    verdict: str = ""


@dataclass(frozen=True)
class Finding:
    """One question and its answer."""

    question: str
    answer: str
    points: list[Point] = field(default_factory=list)
    note: str = ""


def rows_of(
    effects: pd.DataFrame | None, kind: str, arms: Mapping[str, Arm], roles: frozenset[str]
) -> list[Row]:
    """Contrasts over all tasks of one kind whose arm has one of the roles; by metric, then dose."""
    if effects is None:
        return []
    rows = effects[(effects["kind"] == kind) & (effects["task"] == "all")]
    kept = [r for r in rows.to_dict("records") if r["arm"] in arms and arms[r["arm"]].role in roles]
    order = metrics.order(list(dict.fromkeys(str(r["metric"]) for r in kept)))
    return sorted(
        kept, key=lambda r: (order.index(str(r["metric"])), arms[r["arm"]].budget or 0, str(r["arm"]))
    )


def specific_rows(effects: pd.DataFrame | None, arms: Mapping[str, Arm]) -> list[Row]:
    """Sink removal minus a control of as many random keys."""
    return [r for r in control_rows(effects, arms) if arms[r["reference"]].role in ("random", "segment")]


def control_rows(effects: pd.DataFrame | None, arms: Mapping[str, Arm]) -> list[Row]:
    """Sink removal minus a control of random keys: as many, or as much mass."""
    rows = [
        r
        for r in rows_of(effects, "edit-control", arms, frozenset({"sink"}))
        if r["reference"] in arms
        and (arms[r["reference"]].role in ("random", "segment") or arms[r["reference"]].control == "mass")
    ]
    # Controls by number first: the headline and the scoreboard are about those.
    return sorted(rows, key=lambda r: arms[r["reference"]].control == "mass")


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(str(row["metric"]), []).append(row)
    return out


def change(row: Row) -> str:
    """The verdict of an outcome as one word: lower, higher, equivalent, inconclusive."""
    if row["verdict"] != "different":
        return str(row["verdict"])
    return "lower" if float(row["effect"]) < 0 else "higher"


def distance_change(row: Row) -> str:
    """The verdict of a distance to the baseline image: further, closer, equivalent, inconclusive."""
    if row["verdict"] != "different":
        return str(row["verdict"])
    return "further" if float(row["effect"]) * metrics.words(str(row["metric"])).away > 0 else "closer"


def _word(row: Row) -> str:
    return distance_change(row) if metrics.words(str(row["metric"])).away else change(row)


def _doses(rows: list[Row], arms: Mapping[str, Arm], *, named: bool) -> str:
    known = [arms[r["arm"]] for r in rows]
    if named:
        return f"in {listing([contrast_name(r) for r in rows])}"
    names = [str(a.budget) for a in known]
    unit = "per head" if known[-1].budget_kind == "keys_per_head" else "shared by the heads"
    plural = "key" if names == ["1"] else "keys"
    return f"at {listing(names)} {plural} {unit}"


def contrast_name(row: Row) -> str:
    """The arm, with what it is compared with unless that is the baseline."""
    return str(row["arm"]) if row["kind"] == "arm-baseline" else f"{row['arm']} against {row['reference']}"


def pattern(rows: list[Row], arms: Mapping[str, Arm], say: Callable[[Row], str] = _word) -> str:
    """`lower at 5 and 10 keys per head; inconclusive at 1 key per head`."""
    known = [arms[r["arm"]] for r in rows]
    named = any(a.budget is None or a.scope for a in known) or len({a.name for a in known}) < len(known)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(say(row), []).append(row)
    if len(groups) == 1 and len(rows) > 1:
        doses = _doses(rows, arms, named=named).removeprefix("at ").removeprefix("in ")
        every = "in every comparison" if named else "at every budget"
        return f"{next(iter(groups))} {every} ({doses})"
    return "; ".join(f"{word} {_doses(part, arms, named=named)}" for word, part in groups.items())


def _patterns(grouped: Mapping[str, list[Row]], arms: Mapping[str, Arm]) -> str:
    """One sentence per pattern; metrics that share a pattern share the sentence."""
    same: dict[str, list[str]] = {}
    for metric, rows in grouped.items():
        same.setdefault(pattern(rows, arms), []).append(metrics.metric_name(metric))
    return " ".join(f"{capital(listing(names))}: {said}." for said, names in same.items())


def numbers(row: Row) -> str:
    """Effect, interval and n of one contrast."""
    level = "" if is_missing(row.get("level")) else f"{100 * float(row['level']):.0f} % interval "
    effect, span = estimate(row["effect"], row["ci_low"], row["ci_high"])
    return f"{effect}, {level}{span}, n = {count(row.get('n_prompts'), 'prompt')}"


def remarks(rows: list[Row]) -> str:
    """What the statistics remark on every one of these contrasts, as a sentence."""
    sets = [str(r["note"]).split("; ") for r in rows if not is_missing(r.get("note")) and r["note"]]
    shared = [n for n in sets[0] if all(n in s for s in sets)] if sets and len(sets) == len(rows) else []
    return f" Remark: {'; '.join(shared)}." if shared else ""


def levels(row: Row) -> str:
    """`0.91 -> 0.88`, where both means are known."""
    if is_missing(row.get("mean_arm")) or is_missing(row.get("mean_reference")):
        return ""
    return f"{number(row['mean_reference'])} \u2192 {number(row['mean_arm'])}: "


def removal(effects: pd.DataFrame | None, arms: Mapping[str, Arm]) -> Finding:
    """What happened when the sinks were removed."""
    question = "What happened when they were removed?"
    rows = rows_of(effects, "arm-baseline", arms, frozenset({"sink"}))
    if not rows:
        return Finding(
            question,
            "Not measured: "
            + _why_not(effects, "no arm that removes sinks was compared with the baseline")
            + ".",
        )
    values = rows_of(effects, "arm-baseline", arms, frozenset({"value"}))
    grouped = _grouped(rows)
    outcomes = [m for m in grouped if not metrics.words(m).away] or list(grouped)
    answer = _patterns({m: grouped[m] for m in outcomes}, arms)
    points = [
        Point(f"{_name(r)}, {_what(arms[r['arm']])}", levels(r) + numbers(r), str(r["verdict"]))
        for r in rows + values
    ]  # fmt: skip
    note = "Change against the unedited baseline of the same prompts and seeds." + remarks(rows)
    return Finding(question, answer, points, note)


def _name(row: Row) -> str:
    return metrics.metric_name(str(row["metric"]), capital=True)


def _what(arm: Arm) -> str:
    return ("values replaced, " if arm.role == "value" else "") + arm.dose


def _why_not(effects: pd.DataFrame | None, else_: str) -> str:
    return "the run holds no effects" if effects is None else else_


def specificity(
    effects: pd.DataFrame | None, arms: Mapping[str, Arm], matches: pd.DataFrame | None = None
) -> Finding:
    """Whether sinks matter more than random keys, and whether that is a matter of being sinks."""
    question = "Is that more than removing as many random tokens would do?"
    rows = control_rows(effects, arms)
    if not rows:
        why = _why_not(effects, "no arm that removes random keys was compared with a sink arm")
        return Finding(
            question, f"Cannot be said: {why}. Any change above may come from removing keys at all."
        )
    answer = "Compared with random removal. " + _patterns(_grouped(rows), arms)
    answer = f"{answer} {matching.verdict(rows, matches)}".strip()
    points = [
        Point(f"{_name(r)}, {_against(r, arms)}", numbers(r), str(r["verdict"]))
        for r in rows
    ]  # fmt: skip
    texts = list(dict.fromkeys(arms[r["reference"]].text for r in rows))
    note = "Sink removal minus its control, paired by prompt. Control: " + "; ".join(texts[:3]) + "."
    if any(metrics.words(str(r["metric"])).away for r in rows):
        note += f' "Further" and "closer" are distances to the baseline {noun(rows)}.'
    return Finding(question, answer, points, note + remarks(rows))


def _against(row: Row, arms: Mapping[str, Arm]) -> str:
    mass = arms[row["reference"]].control == "mass"
    return arms[row["arm"]].dose + (" against as much mass" if mass else "")


def drift(effects: pd.DataFrame | None, arms: Mapping[str, Arm]) -> Finding:
    """What the edited path does by itself."""
    question = "Does the edited path change anything by itself?"
    rows = rows_of(effects, "arm-baseline", arms, frozenset({"null"}))
    if not rows:
        return Finding(
            question,
            "Not known: " + _why_not(effects, "the study has no null arm (an edit of no keys)") + ".",
        )
    exact = all(not is_missing(r["effect"]) and float(r["effect"]) == 0 for r in rows)
    points = [
        Point(metrics.metric_name(str(r["metric"]), capital=True), numbers(r), str(r["verdict"]))
        for r in rows
    ]
    if exact:
        answer = "No: with an empty edit the mean of every metric equals the baseline's exactly."
    elif any(r["verdict"] == "different" for r in rows):
        moved = list(
            dict.fromkeys(metrics.metric_name(str(r["metric"])) for r in rows if r["verdict"] == "different")
        )
        answer = (
            f"Yes: the empty edit alone moves {listing(moved)}. Read every effect below against this drift."
        )
    else:
        answer = "; ".join(
            f"{metrics.metric_name(m)} {pattern(p, arms, _bare)}" for m, p in _grouped(rows).items()
        )
        answer = capital(answer) + ". No drift was shown to differ from zero."
    return Finding(question, answer, points, "Null arm (masked path, no key chosen) minus baseline.")


def _bare(row: Row) -> str:
    return f"{number(row['effect'], signed=True)} ({row['verdict']})"


AS_MANY = "as many random keys"
AS_HEAVY = "random keys of as much mass"


def headline(
    effects: pd.DataFrame | None, arms: Mapping[str, Arm], matches: pd.DataFrame | None = None
) -> str:
    """What the comparison of sinks with random keys allows to be said, and whether it is about sinks."""
    every = control_rows(effects, arms)
    many = specific_rows(effects, arms)
    rows, other = (many, AS_MANY) if many else (every, AS_HEAVY)
    if not rows:
        if rows_of(effects, "arm-baseline", arms, frozenset({"sink"})):
            return (
                "Sinks were removed, but without a random control this run cannot say whether sinks in "
                "particular matter."
            )
        return "This run does not compare sink removal with anything yet."
    away = [r for r in rows if metrics.words(str(r["metric"])).away]
    rest = [r for r in rows if not metrics.words(str(r["metric"])).away]
    clauses = [_distance_clause(away, other)] if away else []
    clauses += [_outcome_clause(part, m, other if not away else "") for m, part in _grouped(rest).items()]
    return f"{capital('; '.join(clauses))}. {matching.verdict(every, matches)}".strip()


def _distance_clause(rows: list[Row], other: str) -> str:
    words = [distance_change(r) for r in rows]
    n, further, closer = len(rows), words.count("further"), words.count("closer")
    than, what = f"than removing {other}", _changed(rows)
    if further and closer:
        both = f"in {further} and less in {closer} of {n} comparisons"
        return f"removing sinks changes {what} more {than} {both}"
    if further or closer:
        word = "more" if further else "less"
        return f"removing sinks changes {what} {word} {than}{_part(further or closer, n)}"
    if words.count("equivalent") == n:
        return f"removing sinks changes {what} as much as removing {other}, within the margins"
    return f"whether removing sinks changes {what} more {than} stays open"


def _changed(rows: list[Row]) -> str:
    """What lies further from or closer to the baseline: the image (the video), or what a model that reads
    says."""
    nouns = {"top1": "the answers", "feature_cosine": "the features"}
    return listing(list(dict.fromkeys(nouns.get(str(r["metric"]), f"the {noun([r])}") for r in rows)))


def noun(rows: list[Row]) -> str:
    """What a unit is called: image or video."""
    return "video" if rows and rows[0].get("output") == "video" else "image"


def _part(k: int, n: int) -> str:
    return "" if k == n else f" in {k} of {n} comparisons"


def _outcome_clause(rows: list[Row], metric: str, other: str) -> str:
    words = [change(r) for r in rows]
    n, name = len(rows), metrics.metric_name(metric)
    against = f" after removing sinks than after removing {other}" if other else ""
    for one, other in (("lower", "higher"), ("higher", "lower")):
        if one in words and other not in words:
            k = words.count(one)
            return f"{name} is {one}{against}{_part(k, n)}"
    if "lower" in words:
        return f"{name} differs{against.replace(' than ', ' and ')}, in both directions"
    if words.count("equivalent") == n:
        margin = f"within \u00b1{number(rows[0].get('margin'))}"
        return f"{name} is equivalent{against.replace(' than ', ' and ')} {margin}"
    if "equivalent" in words:
        part = f"in {words.count('equivalent')} of {n} comparisons"
        return f"{name} is equivalent {part} and otherwise inconclusive"
    return f"for {name} the comparison is inconclusive"
