"""Runs beside each other: the same units and arms on different models, on one page.

Each run has a page of its own; this one answers what only the comparison can: where the sinks of each model
are and whether they move over steps, and whether removing them changes one model more than the other. The
second is a difference of differences, paired by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sinkscope import stats
from sinkscope.errors import UsageError
from sinkscope.report import _fig_beside as figures
from sinkscope.report import _metrics as metrics
from sinkscope.report._canvas import to_svg
from sinkscope.report._data import RunData, read
from sinkscope.report._dynamics import baseline_rows, query_group
from sinkscope.report._format import NOT_AVAILABLE, estimate, number
from sinkscope.report._page import Picture, _write
from sinkscope.report._tables import Table

SETTINGS: dict[str, Any] = {"level": 0.95, "draws": 10_000, "seed": 0}


@dataclass(frozen=True)
class Side:
    """One of the runs."""

    name: str
    data: RunData

    def effects(self, kind: str) -> pd.DataFrame:
        """Its effects over all prompts of one kind of contrast."""
        table = self.data.table("effects")
        if table is None:
            return pd.DataFrame(columns=["metric", "arm", "reference", "kind", "effect", "ci_low", "ci_high"])
        return table[(table["task"] == "all") & (table["kind"] == kind)]


def build_beside(folders: Mapping[str, Path | str], out: Path | str) -> Path:
    """Write the page of several runs beside each other.

    Args:
        folders: Name of each side -> its run folder. Differences are taken from the first one.
        out: Path of the page.

    Raises:
        UsageError: Fewer than two runs.
        StoreError: A folder is no run folder, or the page cannot be written.
    """
    if len(folders) < 2:
        raise UsageError(f"Got {len(folders)} run to set beside each other: expected two or more.")
    sides = [Side(name, read(folder)) for name, folder in folders.items()]
    target = Path(out)
    _write(target, _render(sides, target.parent))
    return target


def _render(sides: Sequence[Side], home: Path) -> str:
    environment = Environment(
        loader=PackageLoader("sinkscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = Path(__file__).parent / "templates"
    css = Markup((folder / "report.css").read_text(encoding="utf-8"))
    changes = differences(sides)
    context = {
        "css": css,
        "title": str(sides[0].data.study.get("name", "runs")).split(":")[0],
        "names": [side.name for side in sides],
        "sides": _sides(sides),
        "pages": [(side.name, _link(side, home)) for side in sides],
        "sinks": _sinks(sides),
        "pictures": _pictures(sides),
        "effects": [_picture(figures.effects(sides, name), f"effects-{name}") for name in _metrics(sides)],
        "changes": changes_table(changes),
        "paired": len(changes) > 0,
    }
    return environment.get_template("beside.html.j2").render(**context)


def _link(side: Side, home: Path) -> str:
    """Relative path of a run's own page, empty where it has none."""
    page = side.data.folder / "report.html"
    try:
        return page.relative_to(home).as_posix() if page.is_file() else ""
    except ValueError:
        return page.resolve().as_uri()


def _picture(figure: Any, name: str) -> Picture:
    return Picture(name, Markup(to_svg(figure, name)), figure.caption)


def _metrics(sides: Sequence[Side]) -> list[str]:
    """Metrics that every side has, outcomes first."""
    each = [list(dict.fromkeys(side.effects("arm-baseline")["metric"])) for side in sides]
    return metrics.order([name for name in each[0] if all(name in other for other in each)])


def _sides(sides: Sequence[Side]) -> Table:
    """What each side is, and the baseline's mean of each outcome."""
    names = [name for name in _metrics(sides) if not metrics.words(name).away]
    columns = ["", "model", "units", "steps", *(f"baseline {metrics.metric_name(name)}" for name in names)]
    rows = []
    for side in sides:
        scores, study = side.data.table("scores"), side.data.study
        units = 0 if scores is None else scores["unit"].nunique()
        rows.append([side.name, str(study.get("model", "")), str(units), str(study.get("steps", ""))])
        for name in names:
            rows[-1].append(number(_baseline_mean(scores, name)))
    return Table(columns, rows, frozenset(range(2, len(columns))))


def _baseline_mean(scores: pd.DataFrame | None, metric: str) -> float:
    if scores is None:
        return float("nan")
    here = scores[(scores["arm"] == "baseline") & (scores["metric"] == metric)]
    return float(here["value"].mean())


def strongest(side: Side) -> pd.DataFrame:
    """The strongest key of each head: baseline arm, rank 0, of the queries the page describes."""
    traces = side.data.table("traces")
    if traces is None:
        return pd.DataFrame(columns=["unit", "step", "layer", "head", "key", "segment", "role", "mass"])
    top = baseline_rows(traces)
    top = top[top["rank"] == 0]
    if "queries" in top.columns and len(top):
        top = top[top["queries"] == query_group(top)]
    return top


def kind(frame: pd.DataFrame) -> pd.Series[str]:
    """Segment and role of keys in words: "text: bos", "image"."""
    segment = frame["segment"].fillna("unknown").astype(str)
    role = frame["role"].astype("object").where(frame["role"].notna(), "")
    return segment.where(role == "", segment + ": " + role.astype(str))


def even(side: Side, top: pd.DataFrame) -> pd.Series[float]:
    """The mass that attention without any preference would give these keys.

    1/n of n keys; where attention is causal key j gets 1/(i + 1) of every query i from j on.
    """
    n = (top["times_uniform"] / top["mass"]).round().astype(int)
    resolved = side.data.record.get("resolved") or {}
    if not resolved.get("causal"):
        return 1.0 / n
    shares: dict[int, np.ndarray] = {
        count: np.cumsum(1.0 / np.arange(count, 0, -1))[::-1] / count for count in n.unique()
    }
    found = [shares[count][key] for count, key in zip(n, top["key"], strict=True)]
    return pd.Series(found, index=top.index)


def _sinks(sides: Sequence[Side]) -> Table:
    """Per side and layer: mass of the strongest key, its most frequent place, and how often it stays."""
    columns = ["", "layer", "mass", "times even", "which keys they are", "most often key", "stays"]
    rows = []
    for side in sides:
        top = strongest(side)
        ratios = top["mass"] / even(side, top) if len(top) else top["mass"]
        for layer, part in top.groupby("layer"):
            shares = kind(part).value_counts(normalize=True)
            words = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.head(3).items())
            often = part["key"].value_counts(normalize=True)
            most = f"{often.index[0]} ({100 * often.iloc[0]:.0f} %)"
            numbers = [number(part["mass"].mean()), number(ratios[part.index].mean())]
            rows.append([side.name, str(layer), *numbers, words, most, _stays(part)])
    return Table(columns, rows, frozenset({1, 2, 3}))


def _stays(part: pd.DataFrame) -> str:
    """Share of heads whose strongest key is the same one step later."""
    wide = part.pivot_table(index=["unit", "head"], columns="step", values="key", aggfunc="first")
    if wide.shape[1] < 2:
        return "one step"
    pairs = wide.to_numpy()
    return f"{100 * np.mean(pairs[:, 1:] == pairs[:, :-1]):.0f} %"


def _pictures(sides: Sequence[Side]) -> list[Picture]:
    tops = {side.name: strongest(side) for side in sides}
    if not all(len(top) for top in tops.values()):
        return []
    return [
        _picture(figures.mass_over_steps(tops), "mass"),
        _picture(figures.positions(tops), "positions"),
        _picture(figures.kinds({name: kind(top) for name, top in tops.items()}), "kinds"),
    ]


def differences(sides: Sequence[Side]) -> pd.DataFrame:
    """Difference of differences: the change of an arm in each side minus that in the first, by prompt.

    Returns:
        Columns of `stats.effects`, and `of` (the contrast) and `side`; empty where the sides do not have the
        same prompts.
    """
    found = []
    first = sides[0].data.table("scores")
    for side in sides[1:]:
        other = side.data.table("scores")
        if first is None or other is None or set(first["prompt_id"]) != set(other["prompt_id"]):
            continue
        for arm, reference in _shared(sides[0], side):
            table = pd.concat(
                [_changes(first, arm, reference, sides[0].name), _changes(other, arm, reference, side.name)]
            )
            pair = [stats.Contrast(side.name, sides[0].name, "arm-baseline")]
            names = [name for name in _metrics([sides[0], side]) if name in set(table["metric"])]
            frame = stats.effects(table, contrasts=pair, metrics=names, by_task=False, **SETTINGS)
            found.append(frame.assign(of=f"{arm} \u2212 {reference}", side=side.name))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _shared(one: Side, other: Side) -> list[tuple[str, str]]:
    """Contrasts that both sides have, in the first one's order."""
    pairs = []
    for which in ("arm-baseline", "edit-control"):
        theirs = {(row.arm, row.reference) for row in other.effects(which).itertuples()}
        mine = dict.fromkeys((str(r.arm), str(r.reference)) for r in one.effects(which).itertuples())
        pairs += [pair for pair in mine if pair in theirs and not pair[0].startswith("null")]
    return pairs


def _changes(scores: pd.DataFrame, arm: str, reference: str, name: str) -> pd.DataFrame:
    """Score in an arm minus that in its reference, unit by unit, as the scores of an arm called `name`."""
    good = scores[scores["status"] == "ok"] if "status" in scores.columns else scores
    index = ["unit", "prompt_id", "task", "metric"]
    wide = good[good["arm"].isin([arm, reference])].pivot_table(index=index, columns="arm", values="value")
    if not {arm, reference} <= set(wide.columns):
        return pd.DataFrame(columns=[*index, "value", "arm", "status"])
    change = (wide[arm] - wide[reference]).dropna().rename("value").reset_index()
    return change.assign(arm=name, status="ok")


def changes_table(changes: pd.DataFrame) -> Table:
    """The differences of differences as a table of the page: a row per contrast, a column per metric."""
    if changes.empty:
        return Table([], [])
    names = metrics.order([str(name) for name in changes["metric"].drop_duplicates()])
    several = changes["side"].nunique() > 1
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in changes.to_dict("records"):
        effect, span = estimate(row["effect"], row["ci_low"], row["ci_high"])
        here = cells.setdefault((str(row["of"]), str(row["side"])), {})
        here[str(row["metric"])] = f"{effect} {span} {row['verdict']}"
    rows = [
        [f"{of} ({side})" if several else of, *(found.get(name, NOT_AVAILABLE) for name in names)]
        for (of, side), found in cells.items()
    ]
    return Table(["contrast", *(metrics.metric_name(name) for name in names)], rows)
