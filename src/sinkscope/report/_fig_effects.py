"""Figures of the effects: forest plot and dose-response, each of one metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullLocator

from sinkscope.report._arms import Arm, Role
from sinkscope.report._canvas import GRID, PAPER, ROLE_COLORS, SOFT, Drawing, canvas, style, tip
from sinkscope.report._format import count, estimate
from sinkscope.report._metrics import metric_name

MARKS = {"different": "D", "equivalent": "s", "inconclusive": "o"}
WIDTH = 4.7
LINES = ("-", "--", ":", "-.")


def order_rows(rows: pd.DataFrame, arms: Mapping[str, Arm]) -> pd.DataFrame:
    """Arm against baseline first (null, sink, control ...; by budget), then edit against control."""
    ranks = ["null", "sink", "random", "segment", "bottom", "value", "other"]

    def key(row: Mapping[Any, Any]) -> tuple[bool, int, int, str]:
        arm = arms.get(row["arm"])
        role = arm.role if arm else "other"
        rank = ranks.index(role) if role in ranks else len(ranks)
        return row["kind"] == "edit-control", rank, (arm.budget or 0) if arm else 0, str(row["arm"])

    ranked = sorted(enumerate(rows.to_dict("records")), key=lambda item: key(item[1]))
    return rows.iloc[[i for i, _ in ranked]]


def forest(
    effects: pd.DataFrame, metric: str, arms: Mapping[str, Arm] | None = None, *, task: str = "all"
) -> Drawing:
    """Effects of one metric with their intervals; the shaded band is the equivalence margin.

    Args:
        effects: `Run.effects()`.
        metric: A name of its `metric` column.
        arms: From `read_arms(study)`; only for colours and order.
        task: A task, or "all".
    """
    arms = arms or {}
    rows = effects[(effects["metric"] == metric) & (effects["task"] == task)]
    rows = order_rows(rows.drop_duplicates(["arm", "reference", "kind"]), arms)
    with style():
        caption = f"Forest plot of {metric_name(metric)}: {len(rows)} contrasts with their intervals."
        figure, axes = canvas(WIDTH, 0.95 + 0.24 * max(len(rows), 2), caption)
        _margin_band(axes, rows, horizontal=True)
        axes.axvline(0, color=SOFT, linewidth=1)
        labels: list[str] = []
        spots: list[float] = []
        y = 0.0
        for i, row in enumerate(rows.to_dict("records")):
            difference = row["kind"] == "edit-control"
            y += 1.6 if i and difference and labels[-1].endswith("baseline") else 1.0
            name = f"{row['arm']} \u2212 {row['reference']}"
            role = arms[row["arm"]].role if row["arm"] in arms else "other"
            _interval_mark(figure, axes, row, y, ROLE_COLORS["difference" if difference else role])
            labels.append(name)
            spots.append(y)
        axes.set_yticks(spots, labels)
        axes.set(ylim=((spots[-1] if spots else 1) + 0.8, 0.2), xlabel=f"difference in {metric_name(metric)}")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="x")
        axes.set_title(metric_name(metric, capital=True))
    return figure


def _interval_mark(figure: Drawing, axes: Axes, row: Mapping[Any, Any], y: float, color: str) -> None:
    mark = MARKS.get(str(row["verdict"]), "o")
    face = PAPER if row["verdict"] != "different" else color
    axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=color, linewidth=2, solid_capstyle="butt")
    (point,) = axes.plot(
        [row["effect"]], [y], mark, color=color, markersize=5.5, markerfacecolor=face, markeredgewidth=1.4
    )
    effect, span = estimate(row["effect"], row["ci_low"], row["ci_high"])
    words = f"{row['arm']} minus {row['reference']}: {effect} {span}, {row['verdict']}"
    tip(figure, point, f"{words}, {count(row['n_prompts'], 'prompt')}" if "n_prompts" in row else words)


def _margin_band(axes: Axes, rows: pd.DataFrame, *, horizontal: bool) -> None:
    margins = list(rows["margin"].dropna().unique()) if "margin" in rows.columns else []
    if len(margins) != 1 or not np.isfinite(margins[0]):
        return
    span = axes.axvspan if horizontal else axes.axhspan
    span(-margins[0], margins[0], facecolor=GRID, alpha=0.45, linewidth=0, zorder=0)


def dose_response(
    effects: pd.DataFrame, metric: str, arms: Mapping[str, Arm], *, task: str = "all"
) -> Drawing:
    """Effect against baseline over the budget, sink removal and random removal side by side.

    Args:
        effects: `Run.effects()`.
        metric: A name of its `metric` column.
        arms: From `read_arms(study)`: says which arm removes what and how many keys.
        task: A task, or "all".
    """
    with style():
        figure = Drawing(figsize=(WIDTH, 2.7), layout="constrained")
        draw_dose(figure, effects, metric, arms, task=task)
    return figure


def draw_dose(
    figure: Figure | SubFigure,
    effects: pd.DataFrame,
    metric: str,
    arms: Mapping[str, Arm],
    *,
    task: str = "all",
) -> None:
    """The dose-response drawn into a figure or a part of one."""
    rows = effects[
        (effects["metric"] == metric) & (effects["task"] == task) & (effects["kind"] == "arm-baseline")
    ]
    series = dose_series(rows, arms)
    doses = sorted({int(d) for one in series for d in one.rows["dose"]})
    axes = figure.subplots()
    _margin_band(axes, rows, horizontal=False)
    axes.axhline(0, color=SOFT, linewidth=1)
    _draw_series(axes, series)
    axes.set_xscale("log")
    axes.set_xticks(doses, [str(d) for d in doses])
    axes.xaxis.set_minor_locator(NullLocator())
    if doses:
        axes.set_xlim(doses[0] / 1.25, doses[-1] * 1.25)
    kind = next((a.budget_kind for a in arms.values() if a.budget is not None), "keys_per_head")
    axes.set(xlabel=f"budget ({kind})", ylabel="change from baseline")
    axes.grid(axis="y")
    axes.locator_params(axis="y", nbins=6)
    figure.legend(
        loc="outside lower center",
        ncols=2 if len(series) > 3 or isinstance(figure, SubFigure) else 3,
        columnspacing=1.4,
    )
    axes.set_title(metric_name(metric, capital=True))
    if isinstance(figure, Drawing):
        figure.caption = f"Dose-response of {metric_name(metric)}: budgets {', '.join(map(str, doses))}."


def _draw_series(axes: Axes, series: list[Series]) -> None:
    for i, (role, label, part) in enumerate(series):
        shift, color = 1 + 0.02 * (i - (len(series) - 1) / 2), ROLE_COLORS[role]
        line = LINES[sum(one.role == role for one in series[:i]) % len(LINES)]
        look: dict[str, Any] = {
            "linestyle": line,
            "marker": "o" if role == "sink" else "s",
            "linewidth": 1.8 if len(part) > 1 else 0,
            "markersize": 5,
        }
        x = part["dose"] * shift
        axes.plot(x, part["effect"], color=color, label=label, **look)
        axes.vlines(x, part["ci_low"], part["ci_high"], color=color, linewidth=1.8)


LABELS: dict[Role, str] = {
    "sink": "sinks removed", "random": "random removed", "segment": "random, same segment",
    "bottom": "least mass removed", "value": "sink values replaced",
}  # fmt: skip


class Series(NamedTuple):
    """The arms of one family, smallest dose first."""

    role: Role
    label: str
    rows: pd.DataFrame
    """arm-baseline effects with a `dose` column."""


def dose_series(rows: pd.DataFrame, arms: Mapping[str, Arm]) -> list[Series]:
    """Arm-baseline effects in series over the budget: one per edit that differs in more than its budget."""
    found = []
    known = rows[[name in arms and arms[name].budget is not None for name in rows["arm"]]].drop_duplicates(
        "arm"
    )
    for role, label in LABELS.items():
        own = known[[arms[name].role == role for name in known["arm"]]]
        families = [arms[name].family for name in own["arm"]]
        for family in dict.fromkeys(families):
            part = own[[f == family for f in families]]
            part = part.assign(dose=[int(arms[n].budget or 0) for n in part["arm"]]).sort_values("dose")
            several = len(set(families)) > 1
            found.append(Series(role, f"{label} ({part['arm'].iloc[0]})" if several else label, part))
    return found
