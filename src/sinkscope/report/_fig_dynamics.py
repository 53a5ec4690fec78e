"""Figures of the sinks themselves: where they are, when, and which tokens they are."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sinkscope.report import _dynamics as dynamics
from sinkscope.report._canvas import INK, PAPER, SOFT, Drawing, canvas, kind_colors, style, tip
from sinkscope.report._format import times

WIDTH = 4.7


def sink_heatmap(summary: pd.DataFrame, *, branch: str | None = None) -> Drawing:
    """Step x layer map of the strongest key's mass against uniform (1 = uniform).

    Args:
        summary: `Run.summary()` or `Observation.summary()`.
        branch: "cond" or "uncond"; default the conditional one.
    """
    places = dynamics.place_order(dynamics.concentration(summary, branch)["place"])
    with style():
        figure = Drawing(figsize=(WIDTH, max(2.1, min(6.0, 1.15 + 0.27 * len(places)))), layout="constrained")
        draw_heatmap(figure, summary, branch)
    return figure


def draw_heatmap(figure: Figure | SubFigure, summary: pd.DataFrame, branch: str | None = None) -> None:
    """The heat map drawn into a figure or a part of one."""
    facts = dynamics.concentration(summary, branch)
    rows, steps = dynamics.place_order(facts["place"]), sorted(facts["step"].unique())
    grid = (
        facts.pivot(index="place", columns="step", values="ratio")
        .reindex(index=rows, columns=steps)
        .to_numpy()
    )
    top = float(np.nanmax(grid)) if np.isfinite(grid).any() else 1.0
    norm = (
        LogNorm(1, top)
        if top > 12
        else Normalize(min(1.0, float(np.nanmin(grid))) if top > 1 else 0, max(top, 1.01))
    )
    paint = matplotlib.colormaps["cividis"]
    axes = figure.subplots()
    for i, row in enumerate(rows):
        for j, step in enumerate(steps):
            value = grid[i, j]
            face = paint(norm(max(value, norm.vmin or 0))) if value == value else PAPER
            cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor=face, linewidth=0.3)
            axes.add_patch(cell)
            tip(figure, cell, f"layer {row}, step {step}: {times(value)} uniform")
    axes.set(
        xlim=(-0.5, len(steps) - 0.5), ylim=(-0.5, len(rows) - 0.5), xlabel="step", ylabel=_place_label(rows)
    )
    _ticks(axes, rows, steps)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(matplotlib.cm.ScalarMappable(norm, paint), ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
    axes.set_title("Top-1 mass against uniform")
    if isinstance(figure, Drawing):
        size = f"{len(steps)} steps x {len(rows)} layers"
        figure.caption = f"Heat map of top-1 mass against uniform, {size}; largest {times(top)}."


def _place_label(rows: list[str]) -> str:
    return "layer" if all(r.isdigit() for r in rows) else "site"


def _ticks(axes: matplotlib.axes.Axes, rows: list[str], steps: list[int]) -> None:
    def thin(n: int, most: int) -> list[int]:
        return list(range(0, n, max(1, -(-n // most))))

    named = short_names(rows)
    axes.set_xticks(thin(len(steps), 10), [str(steps[i]) for i in thin(len(steps), 10)])
    axes.set_yticks(thin(len(rows), 16), [named[rows[i]] for i in thin(len(rows), 16)])


def short_names(names: Sequence[str], most: int = 26) -> dict[str, str]:
    """Layers as they are; sites without the words that all of them share."""
    parts = [name.split(".") for name in names]
    shared = set.intersection(*(set(p) for p in parts)) if len(parts) > 1 else set()
    found = {}
    for name, pieces in zip(names, parts, strict=True):
        kept = [p for p in pieces if p.isdigit() or p not in shared] or pieces
        short = ".".join(kept)
        found[name] = short if len(short) <= most else "…" + short[-most + 1 :]
    return found


def sink_lines(summary: pd.DataFrame, *, branch: str | None = None) -> Drawing:
    """Top-1 mass against uniform over steps, one line per layer, labelled at its end."""
    facts = dynamics.concentration(summary, branch)
    rows = dynamics.place_order(facts["place"])
    with style():
        figure, axes = canvas(
            WIDTH, 2.9, f"Top-1 mass against uniform over steps, one line for each of {len(rows)} layers."
        )
        paint = matplotlib.colormaps["viridis"]
        ends = {}
        for i, row in enumerate(rows):
            part = facts[facts["place"] == row].sort_values("step")
            color = paint(0.05 + 0.8 * i / max(1, len(rows) - 1))
            (line,) = axes.plot(part["step"], part["ratio"], color=color, marker="o", markersize=2.2)
            tip(figure, line, f"layer {row}")
            ends[row] = (float(part["step"].iloc[-1]), float(part["ratio"].iloc[-1]))
        axes.axhline(1.0, color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
        axes.annotate(
            "uniform",
            (0.01, 1.0),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=8,
            color=SOFT,
        )
        axes.set(xlabel="step", ylim=(0, None))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(axis="y")
        _label_ends(axes, ends)
        axes.set_title("The same, layer by layer")
    return figure


def _label_ends(axes: matplotlib.axes.Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Names at the line ends, pushed apart; beyond a dozen lines only the highest are named."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.065
    chosen = sorted(sorted(ends, key=lambda r: -ends[r][1])[:12], key=lambda r: ends[r][1])
    heights: list[float] = []
    for row in chosen:
        heights.append(max(ends[row][1], heights[-1] + gap) if heights else ends[row][1])
    over = max(0.0, heights[-1] - high) if heights else 0.0
    names = short_names(list(ends))
    for row, height in zip(chosen, heights, strict=True):
        label = f"layer {row}" if row.isdigit() else names[row]
        axes.annotate(
            label,
            (ends[row][0], height - over),
            xytext=(6, 0),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            va="center",
            ha="left",
            annotation_clip=False,
        )


def sink_shares(traces: pd.DataFrame, *, by: str = "layer", branch: str | None = None) -> Drawing:
    """Stacked shares of the strongest keys by segment and token role.

    Args:
        traces: `Run.traces()` or `Observation.sinks()`.
        by: "layer" or "step".
        branch: "cond" or "uncond"; default the conditional one.
    """
    table = dynamics.shares(traces, "place" if by == "layer" else "step", branch)
    colors = kind_colors([str(c) for c in table.columns])
    labels = [str(i) for i in table.index]
    with style():
        figure, axes = canvas(
            WIDTH, 2.9, f"Stacked shares of strongest keys by segment and token role, per {by}."
        )
        bottom = np.zeros(len(table))
        x = np.arange(len(table))
        for kind in table.columns:
            heights = table[kind].to_numpy()
            bars = axes.bar(
                x, heights, 0.94 if by == "step" else 0.82, bottom, label=str(kind), color=colors[str(kind)]
            )
            for bar, label, height in zip(bars, labels, heights, strict=True):
                tip(figure, bar, f"{by} {label}, {kind}: {100 * height:.0f} %")
            bottom = bottom + heights
        thin = range(0, len(labels), max(1, -(-len(labels) // 16)))
        named = short_names(labels)
        long = max(map(len, named.values())) > 3
        axes.set_xticks(list(thin), [named[labels[i]] for i in thin])
        if long:
            axes.tick_params(axis="x", rotation=90)
            figure.set_figheight(4.1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
        axes.set(
            ylim=(0, 1),
            xlim=(-0.6, len(labels) - 0.4),
            xlabel=_place_label(labels) if by == "layer" else "step",
        )
        axes.tick_params(axis="x", length=0)
        figure.legend(loc="outside lower center", ncols=3, handlelength=1.0, columnspacing=1.4)
        axes.set_title(f"Which tokens receive most, by {by}")
    return figure
