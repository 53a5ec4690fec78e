"""Tables of the page: layers, tokens, receipts, replacements, skipped scores, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from sinkscope.report import _dynamics as dynamics
from sinkscope.report import _metrics as metrics
from sinkscope.report._arms import Arm
from sinkscope.report._format import (
    NOT_AVAILABLE,
    count,
    estimate,
    interval,
    is_missing,
    number,
    p_value,
    percent,
    times,
)


@dataclass(frozen=True)
class Table:
    """A plain table; the first column is a row header, `numeric` names the right-aligned columns."""

    columns: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    caption: str = ""


def layers(summary: pd.DataFrame, scores: pd.DataFrame | None) -> Table:
    """Top-1 mass against uniform per layer with interval, entropy, concentration and mass per segment."""
    facts = dynamics.by_place(summary, scores)
    segments = [c for c in facts.columns if c.startswith("mass_")]
    columns = ["layer", "top-1 / uniform", "95 % interval", "peak (step)"]
    columns += ["row entropy", "of maximum"] if "entropy" in facts.columns else []
    columns += ["top-5 mass"] if "top5_mass" in facts.columns else []
    columns += [f"mass on {c.removeprefix('mass_')}" for c in segments] + ["prompts"]
    rows = []
    for r in facts.to_dict("records"):
        cells = [str(r["place"]), times(r["ratio"]), interval(r["low"], r["high"], signed=False)]
        cells.append(
            f"{times(r['peak_ratio'])} ({r['peak_step']:.0f})"
            if r["peak_step"] == r["peak_step"]
            else NOT_AVAILABLE
        )
        cells += [f"{number(r['entropy'])} nats", percent(r["entropy_share"])] if "entropy" in r else []
        cells += [percent(r["top5_mass"])] if "top5_mass" in r else []
        rows.append([*cells, *(percent(r[c]) for c in segments), str(r["prompts"])])
    return Table(columns, rows, frozenset(range(1, len(columns))))


def tokens(traces: pd.DataFrame, n: int = 15) -> Table:
    """The most frequent strongest keys with their text."""
    found = dynamics.frequent(traces, n)
    rows = [
        [
            r["label"],
            r["kind"],
            r["encoder"] or "\u2013",
            percent(r["share"]),
            f"{r['count']:,}",
            percent(r["mass"]),
            r["layers"],
        ]
        for r in found.to_dict("records")
    ]
    columns = [
        "token",
        "segment and role",
        "encoder",
        "share of strongest keys",
        "times",
        "mean mass",
        "layers",
    ]
    return Table(columns, rows, frozenset({3, 4, 5}))


def branch_shares(traces: pd.DataFrame, scores: pd.DataFrame | None) -> Table | None:
    """Kinds of the strongest keys in each branch, when there are two."""
    names = dynamics.branches(dynamics.baseline_rows(traces))
    if len(names) < 2:
        return None
    per = {b: dynamics.kind_table(traces, scores, b).set_index("kind") for b in names}
    kinds = dynamics.kind_order(pd.Series([k for t in per.values() for k in t.index]))
    rows = []
    for kind in kinds:
        cells = [kind]
        for b in names:
            cells.append(percent(per[b]["share"].get(kind, 0.0)))
        rows.append(cells)
    return Table(["segment and role", *names], rows, frozenset(range(1, 1 + len(names))))


def receipts(frame: pd.DataFrame, arms: Mapping[str, Arm]) -> Table:
    """Per arm: how often the edit fired, keys edited, the mass they held and what was left."""
    rows = []
    for name in [a for a in arms if a in set(frame["arm"])]:
        part = frame[frame["arm"] == name]
        cells = [name, f"{len(part):,}"]
        cells.append(f"{part['keys'].mean():g}" if "keys" in part.columns else NOT_AVAILABLE)
        cells.append(
            percent(part["share_of_keys"].mean()) if "share_of_keys" in part.columns else NOT_AVAILABLE
        )
        cells += [
            percent(part["mass_before"].mean()),
            percent(part["mass_after"].mean()),
            number(part["mass_after"].max()),
        ]
        rows.append(cells)
    columns = [
        "arm",
        "calls and heads",
        "keys edited",
        "of all keys",
        "mass before",
        "mass after",
        "largest mass after",
    ]
    return Table(columns, rows, frozenset(range(1, 7)))


def replacements(frame: pd.DataFrame, n: int = 12) -> Table:
    """The keys that took over the mass, most gain first."""
    named = frame.assign(kind=dynamics.kinds(frame))
    token = (
        named["token"].astype("object") if "token" in named.columns else pd.Series(None, index=named.index)
    )
    named["label"] = token.where(token.notna(), "\u2013").astype(str)
    found = named.groupby(["arm", "kind", "label"], sort=False)["gain"].agg(["size", "mean"]).reset_index()
    found["share"] = found["size"] / found.groupby("arm")["size"].transform("sum")
    found = found.sort_values(["arm", "size"], ascending=[True, False]).groupby("arm").head(max(3, n // 3))
    rows = [
        [r["arm"], r["kind"], r["label"], percent(r["share"]), number(r["mean"], signed=True)]
        for r in found.to_dict("records")
    ]
    columns = ["arm", "segment and role", "token", "share of replacements", "mean gain of mass"]
    return Table(columns, rows, frozenset({3, 4}))


def skipped(scores: pd.DataFrame | None, study: Mapping[str, Any]) -> Table | None:
    """Scores that are not available, by metric, with the reason given by the scorer."""
    rows: list[list[str]] = []
    if scores is not None:
        bad = scores[scores["value"].isna()]
        if "status" in scores.columns:
            bad = scores[scores["value"].isna() | (scores["status"] != "ok")]
        reason = (
            bad["status"].astype(str)
            if "status" in bad.columns
            else pd.Series("no reason recorded", index=bad.index)
        )
        for (metric, why), part in bad.groupby([bad["metric"], reason]):
            rows.append(
                [
                    str(metric),
                    str(why),
                    count(len(part), "score"),
                    ", ".join(dict.fromkeys(map(str, part["arm"]))),
                ]
            )
    wanted = [
        str(m) if not isinstance(m, Mapping) else str(m.get("name", m)) for m in study.get("metrics") or []
    ]
    have = set() if scores is None else set(scores["metric"].astype(str))
    rows += [
        [m, "no score of it in the run folder", "all scores", "all arms"] for m in wanted if m not in have
    ]
    return Table(["metric", "reason", "how many", "arms"], rows) if rows else None


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
HIDDEN = ("study", "arms", "arm_info", "prompt_records", "units")


def provenance(record: Mapping[str, Any], study: Mapping[str, Any], scores: pd.DataFrame | None) -> Table:
    """The facts that name a run: model, seeds, counts, hashes, versions."""
    facts: dict[str, str] = {}
    for key in (
        "name",
        "model",
        "prompts",
        "seeds",
        "steps",
        "guidance",
        "height",
        "width",
        "batch",
        "metrics",
        "level",
        "draws",
    ):
        if key in study:
            facts[key] = _plain(study[key])
    if scores is not None:
        facts["units"] = count(scores["unit"].nunique(), "unit")
        if "prompt_id" in scores.columns:
            facts["units"] += f" of {count(scores['prompt_id'].nunique(), 'prompt')}"
        facts["arms"] = (
            count(scores["arm"].nunique(), "arm")
            + ": "
            + ", ".join(scores["arm"].drop_duplicates().astype(str))
        )
    for key, value in record.items():
        if key not in facts and key not in HIDDEN and value is not study.get(key, object()):
            facts[str(key)] = _plain(value)
    return Table(["what", "value"], [[k, v] for k, v in facts.items()])


def _plain(value: Any) -> str:
    if value is None:
        return "model default"
    if isinstance(value, Mapping):
        return "; ".join(f"{k} {_plain(v) if isinstance(v, Mapping) else v}" for k, v in value.items())[:400]
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return f"{len(value)} entries, in study.yaml below"
    if isinstance(value, list):
        shown = ", ".join(str(v) for v in value[:12])
        return shown + (f" \u2026 ({len(value)} in all)" if len(value) > 12 else "")
    return str(value)


def yaml_text(record: Mapping[str, Any]) -> str:
    """study.yaml as text."""
    return str(yaml.dump(dict(record), Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=100))


def slopes(dose: pd.DataFrame) -> Table:
    """Slopes over the budget for each metric: the edit, its control, and the difference of both."""
    rows = []
    several = "arms" in dose.columns and dose["arms"].nunique() > 1
    for r in dose[dose["task"] == "all"].to_dict("records"):
        effect, span = estimate(r["slope"], r["ci_low"], r["ci_high"])
        series = {"edit": "sinks", "control": "random", "edit-control": "sinks \u2212 random"}.get(
            r["series"], r["series"]
        )
        cells = [
            metrics.metric_name(str(r["metric"]), capital=True),
            f"{series} ({r['arms']})" if several else str(series),
            effect,
            span,
            p_value(r.get("p_holm")),
        ]
        rows.append([*cells, NOT_AVAILABLE if is_missing(r.get("n_prompts")) else str(int(r["n_prompts"]))])
    return Table(
        ["metric", "series", "slope", "interval", "p (Holm)", "prompts"], rows, frozenset({2, 3, 4, 5})
    )
