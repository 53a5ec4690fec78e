"""Figures of runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from sinkscope.report._canvas import PAPER, SOFT, Drawing, canvas, kind_colors, style, tip
from sinkscope.report._fig_effects import MARKS
from sinkscope.report._format import estimate
from sinkscope.report._metrics import metric_name

if TYPE_CHECKING:
    from sinkscope.report._beside import Side

WIDTH = 4.7
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def mass_over_steps(tops: Mapping[str, pd.DataFrame]) -> Drawing:
    """Mean mass of the strongest key of a head over steps, with 95 % t intervals over units."""
    with style():
        figure, axes = canvas(WIDTH, 2.7, f"Mass of the strongest key over steps: {', '.join(tops)}.")
        for color, (name, top) in zip(COLORS, tops.items(), strict=False):
            each = top.groupby(["step", "unit"])["mass"].mean().groupby("step")
            mean, error = each.mean(), 1.96 * each.sem().fillna(0.0)
            if len(mean) == 1:
                axes.axhline(mean.iloc[0], color=color, linestyle="--", label=f"{name} (one pass)")
                continue
            steps = mean.index.to_numpy()
            axes.fill_between(steps, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
            axes.plot(steps, mean, "-o", color=color, markersize=3, label=name)
        axes.set(xlabel="step", ylabel="mean mass of the strongest key", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.legend()
        axes.set_title("How heavy the strongest key is")
    return figure


def positions(tops: Mapping[str, pd.DataFrame]) -> Drawing:
    """Which key is the strongest in each step: share of units, layers and heads, one panel per side."""
    keys = 1 + max(int(top["key"].max()) for top in tops.values())
    widths = [max(0.45, np.log1p(top["step"].nunique()) / 3) for top in tops.values()]
    with style():
        figure = Drawing(figsize=(WIDTH, 3.6), layout="constrained")
        figure.caption = f"Position of the strongest key over steps: {', '.join(tops)}."
        panels = figure.subplots(1, len(tops), sharey=True, width_ratios=widths, squeeze=False)[0]
        norm, paint = Normalize(0, 1), matplotlib.colormaps["cividis"]
        for axes, (name, top) in zip(panels, tops.items(), strict=True):
            share = pd.crosstab(top["key"], top["step"], normalize="columns")
            for column, step in enumerate(share.columns):
                for key, value in zip(map(int, share.index), share[step], strict=True):
                    # Small shares would be invisible on a linear scale.
                    face = paint(norm(np.sqrt(value))) if value else PAPER
                    cell = Rectangle((column - 0.5, key - 0.5), 1, 1, facecolor=face, edgecolor=face)
                    axes.add_patch(cell)
                    if value >= 0.005:
                        tip(figure, cell, f"{name}, step {step}, key {key}: {100 * value:.1f} %")
            axes.set(xlim=(-0.5, share.shape[1] - 0.5), ylim=(keys - 0.5, -0.5), xlabel="step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if share.shape[1] == 1:
                axes.set_xticks([0], [str(share.columns[0])])
            axes.set_title(name.replace("_", "\n"), fontsize=8.5)
        panels[0].set_ylabel("key (position in the sequence)")
        bar = figure.colorbar(matplotlib.cm.ScalarMappable(norm, paint), ax=list(panels), fraction=0.05)
        bar.set_ticks([0, 0.1**0.5, 0.5, 1], labels=["0", "10 %", "25 %", "100 %"])
        bar.set_label("share of heads")
    return figure


def kinds(found: Mapping[str, pd.Series[str]]) -> Drawing:
    """Which kinds of keys the strongest ones are, one bar per side."""
    shares = pd.DataFrame({name: each.value_counts(normalize=True) for name, each in found.items()}).fillna(0)
    shares = shares.loc[shares.sum(axis=1).sort_values(ascending=False).index]
    colors = kind_colors([str(name) for name in shares.index])
    with style():
        figure, axes = canvas(WIDTH, 1.1 + 0.45 * len(found), f"Kinds of strongest keys: {', '.join(found)}.")
        left = np.zeros(len(found))
        for name, row in shares.iterrows():
            bars = axes.barh(list(found), row.to_numpy(), left=left, color=colors[str(name)], label=str(name))
            for bar, value, side in zip(bars, row, found, strict=True):
                tip(figure, bar, f"{side}: {name} {100 * value:.1f} %")
            left = left + row.to_numpy()
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="share of units, layers, heads and steps")
        axes.spines["left"].set_visible(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.45), ncols=3)
        axes.set_title("What the strongest keys are")
    return figure


def effects(sides: Sequence[Side], metric: str) -> Drawing:
    """Change of one metric in each shared contrast, the sides below each other, with intervals."""
    rows: list[tuple[str, list[Mapping[Any, Any] | None]]] = []
    for which in ("arm-baseline", "edit-control"):
        tables = [side.effects(which) for side in sides]
        tables = [table[table["metric"] == metric] for table in tables]
        names = dict.fromkeys((r.arm, r.reference) for table in tables for r in table.itertuples())
        for arm, reference in names:
            label = arm if which == "arm-baseline" else f"{arm} \u2212 {reference}"
            rows.append((str(label), [_row(table, arm, reference) for table in tables]))
    with style():
        caption = (
            f"Changes of {metric_name(metric)} in {len(rows)} contrasts, {len(sides)} runs beside each other."
        )
        figure, axes = canvas(WIDTH, 1.1 + (0.16 * len(sides) + 0.08) * len(rows), caption)
        axes.axvline(0, color=SOFT, linewidth=1)
        for place, (_, found) in enumerate(rows):
            for index, (side, row) in enumerate(zip(sides, found, strict=True)):
                if row is not None:
                    y = place + (index - (len(sides) - 1) / 2) * 0.34
                    _mark(figure, axes, row, y, COLORS[index % len(COLORS)], side.name)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"difference in {metric_name(metric)}")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        for index, side in enumerate(sides):
            axes.plot([], [], "o", color=COLORS[index % len(COLORS)], label=side.name)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.4, -0.12 - 0.4 / max(len(rows), 1)), ncols=len(sides)
        )
        axes.set_title(metric_name(metric, capital=True))
    return figure


def _row(table: pd.DataFrame, arm: Any, reference: Any) -> Mapping[Any, Any] | None:
    here = table[(table["arm"] == arm) & (table["reference"] == reference)].to_dict("records")
    return here[0] if here and here[0]["effect"] == here[0]["effect"] else None


def _mark(figure: Drawing, axes: Any, row: Mapping[Any, Any], y: float, color: str, side: str) -> None:
    axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=color, linewidth=1.6, solid_capstyle="butt")
    mark, sure = MARKS.get(str(row["verdict"]), "o"), row["verdict"] == "different"
    (point,) = axes.plot(
        [row["effect"]], [y], mark, color=color, markersize=4.5, markerfacecolor=color if sure else PAPER
    )
    effect, span = estimate(row["effect"], row["ci_low"], row["ci_high"])
    tip(figure, point, f"{side}, {row['arm']} minus {row['reference']}: {effect} {span}, {row['verdict']}")
