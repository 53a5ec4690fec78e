"""Figures of who the sinks are: shares by kind over steps and layers, agreement of sets, who takes over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sinkscope.report import _dynamics as dynamics
from sinkscope.report._canvas import INK, PAPER, SOFT, Drawing, kind_colors, style, tip
from sinkscope.report._fig_dynamics import short_names
from sinkscope.report._format import percent

WIDE = 9.6
MOST_PANELS = 8
MOST_CELLS = 16
MEASURES = (("sinks", "share of the sinks"), ("mass", "share of all mass,\nqueries balanced"))
BARS = ("next step", "steps", "branches", "seeds", "prompts", "layers")


def identity_panels(shares: pd.DataFrame, *, branch: str | None = None) -> Drawing:
    """Stacked shares by kind over steps, one panel per layer; above of the sinks, below of all mass.

    Args:
        shares: `Run.identity(by=("branch", "layer", "site", "step"), parts=("kind",))`.
        branch: "cond" or "uncond"; default the conditional one.
    """
    names = dynamics.branches(shares)
    rows = shares[shares["branch"] == (branch or names[0])] if names else shares
    rows = rows.assign(place=dynamics.places(rows))
    order = _some(dynamics.place_order(rows["place"]), MOST_PANELS)
    shown = [(of, label, part) for of, label in MEASURES if len(part := _measure(rows, of))]
    kinds = dynamics.kind_order(pd.Series([kind for *_, part in shown for kind in part["kind"]]))
    colors, named = kind_colors(kinds), short_names(order)
    with style():
        figure = Drawing(figsize=(WIDE, 0.75 + 1.75 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), len(order), sharex=True, sharey=True, squeeze=False)
        for axes_row, (_, label, part) in zip(grid, shown, strict=True):
            for axes, place in zip(axes_row, order, strict=True):
                _stack(figure, axes, part[part["place"] == place], kinds, colors, named[place])
            axes_row[0].set_ylabel(label)
            axes_row[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
        for axes, place in zip(grid[0], order, strict=True):
            axes.set_title(f"layer {place}" if place.isdigit() else named[place], fontsize=9)
        for axes in grid[-1]:
            axes.set_xlabel("step")
        marks = [Rectangle((0, 0), 1, 1, color=colors[kind]) for kind in kinds]
        figure.legend(marks, kinds, loc="outside lower center", ncols=min(6, len(kinds)), handlelength=1.0)
        figure.caption = (
            "Stacked shares by segment and token role over steps, one panel per layer: "
            + "; ".join(label.replace("\n", " ") for _, label, _ in shown)
        )
    return figure


def _measure(rows: pd.DataFrame, of: str) -> pd.DataFrame:
    part = rows[rows["of"] == of]
    return part[part["queries"] == "balanced"] if of == "mass" else part


def _some(names: Sequence[Any], most: int) -> list[Any]:
    """All names, or `most` of them evenly spread, the first and the last included."""
    if len(names) <= most:
        return list(names)
    return [names[round(place)] for place in np.linspace(0, len(names) - 1, most)]


def _strided(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced places among `count`."""
    return list(range(0, count, max(1, -(-count // most))))


def _stack(
    figure: Drawing, axes: Axes, rows: pd.DataFrame, kinds: list[str], colors: dict[str, str], place: str
) -> None:
    """Bars without gaps: one filled outline per kind, so that the picture stays small."""
    table = rows.pivot_table(index="step", columns="kind", values="share", aggfunc="mean").fillna(0.0)
    steps = table.index.to_numpy(float)
    bottom = np.zeros(2 * len(steps))
    edges = np.repeat(np.arange(len(steps) + 1), 2)[1:-1] - 0.5
    for kind in kinds:
        if kind not in table.columns:
            continue
        top = bottom + np.repeat(table[kind].to_numpy(float), 2)
        area = axes.fill_between(edges, bottom, top, color=colors[kind], linewidth=0)
        tip(figure, area, f"{place}, {kind}: {percent(table[kind].mean())} over all steps")
        bottom = top
    axes.set(xlim=(-0.5, len(steps) - 0.5), ylim=(0, 1))
    ticks = _strided(len(steps), 4)
    axes.set_xticks(ticks, [f"{steps[tick]:.0f}" for tick in ticks])
    axes.tick_params(length=0)


def overlap_panels(pairs: pd.DataFrame, overlaps: pd.DataFrame, *, branch: str | None = None) -> Drawing:
    """Agreement of the sinks between steps and between layers as maps, and every comparison beside chance.

    Args:
        pairs: `Run.overlap(pairs=True)`.
        overlaps: `Run.overlap()`.
        branch: "cond" or "uncond"; default the conditional one.
    """
    names = dynamics.branches(overlaps)
    main = branch or (names[0] if names else "none")
    maps = []
    for between, title in (("steps", "Between steps"), ("layers", "Between layers")):
        here = pairs[(pairs["between"] == between) & (pairs["branch"] == main)]
        if len(here):
            maps.append((between, title, here))
    with style():
        figure = Drawing(figsize=(WIDE, 3.2), layout="constrained")
        ratios = [*([1.0] * len(maps)), 1.15]
        grid = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        for axes, (between, title, here) in zip(grid, maps, strict=False):
            _map(figure, axes, here, "step" if between == "steps" else "layer", title)
        _bars(figure, grid[-1], overlaps, main)
        figure.caption = (
            "Agreement (Jaccard) of the sets of sinks: maps between steps and between layers, and "
        )
        figure.caption += "bars for every comparison with its interval and the agreement of random sets."
    return figure


def _map(figure: Drawing, axes: Axes, pairs: pd.DataFrame, what: str, title: str) -> None:
    means = pairs.groupby(["a", "b"], sort=False)[["jaccard", "chance_jaccard"]].mean()
    items = sorted({*(a for a, _ in means.index), *(b for _, b in means.index)}, key=_natural)
    shown = _some(items, MOST_CELLS)
    # A sequence of sites is told by its layers where each layer has one.
    labels = _site_labels([str(item) for item in shown]) if what == "layer" else [f"{item}" for item in shown]
    top = float(means["jaccard"].max())
    norm, paint = Normalize(0, max(top, 1e-3)), matplotlib.colormaps["cividis"]
    value = means["jaccard"].to_dict()
    for i, a in enumerate(shown):
        for j, b in enumerate(shown[:i]):
            agreement = value.get((a, b), value.get((b, a), np.nan))
            face = paint(norm(agreement)) if agreement == agreement else PAPER
            cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor=face, linewidth=0.3)
            axes.add_patch(cell)
            tip(figure, cell, f"{what}s {labels[j]} and {labels[i]}: {percent(agreement)}")
    axes.set(xlim=(-0.5, len(shown) - 1.5), ylim=(0.5, len(shown) - 0.5), xlabel=what, ylabel=what)
    ticks = _strided(len(shown), 8)
    for set_ticks, left_out in ((axes.set_xticks, len(shown) - 1), (axes.set_yticks, 0)):
        kept = [tick for tick in ticks if tick != left_out]
        set_ticks(kept, [labels[tick] for tick in kept])
    if max(map(len, labels)) > 3:
        axes.tick_params(axis="x", rotation=90)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(matplotlib.cm.ScalarMappable(norm, paint), ax=axes, fraction=0.06, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %"))
    bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    chance = float(means["chance_jaccard"].mean())
    axes.set_title(f"{title} (chance {percent(chance)})")


def _natural(item: Any) -> tuple[Any, ...]:
    if isinstance(item, (int, np.integer)):
        return (int(item),)
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in str(item).split("."))


def _site_labels(sites: list[str]) -> list[str]:
    short = short_names(sites)
    return [short[site] for site in sites]


def _bars(figure: Drawing, axes: Axes, overlaps: pd.DataFrame, main: str) -> None:
    rows = overlaps[overlaps["site"].isna() & ((overlaps["branch"] == main) | overlaps["branch"].isna())]
    known = {str(row["between"]): row for row in rows.to_dict("records")}
    shown = [name for name in BARS if name in known]
    for place, name in enumerate(shown):
        row = known[name]
        (bar,) = axes.barh(place, row["jaccard"], 0.62, color="#0072b2")
        tip(
            figure, bar, f"between {name}: {percent(row['jaccard'])}, chance {percent(row['chance_jaccard'])}"
        )
        if row["ci_low"] == row["ci_low"]:
            axes.plot([row["ci_low"], row["ci_high"]], [place, place], color=INK, linewidth=1.4)
        chance = row["chance_jaccard"]
        axes.plot([chance, chance], [place - 0.36, place + 0.36], color="#d55e00", linewidth=2)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_title("Agreement (orange: by chance)")
    axes.tick_params(axis="x", labelcolor=SOFT)


def takeover_bars(takers: pd.DataFrame, *, branch: str | None = None) -> Drawing:
    """Of the removed mass: where it came from, who took it, who would have in proportion.

    Args:
        takers: `Run.takers(parts=("kind",))`.
        branch: "cond" or "uncond"; default the conditional one.
    """
    names = dynamics.branches(takers)
    rows = takers[takers["branch"] == (branch or names[0])] if names else takers
    arms = list(dict.fromkeys(map(str, rows["arm"])))
    kinds = dynamics.kind_order(rows["kind"])
    colors = kind_colors(kinds)
    measures = (("removed", "lost by"), ("gain", "taken by"), ("expected", "in proportion"))
    with style():
        figure = Drawing(figsize=(WIDE, 1.0 + 0.75 * len(arms)), layout="constrained")
        figure.caption = (
            "Stacked shares of the removed mass by segment and token role: who lost it, who took "
        )
        figure.caption += "it over, and who would have in proportion to the mass they had."
        grid = figure.subplots(len(arms), 1, sharex=True, squeeze=False)[:, 0]
        for axes, arm in zip(grid, arms, strict=True):
            table = rows[rows["arm"] == arm].set_index("kind")
            for place, (column, label) in enumerate(measures):
                left = 0.0
                for kind in kinds:
                    width = max(0.0, float(table[column].get(kind, 0.0)))
                    (bar,) = axes.barh(place, width, 0.8, left=left, color=colors[kind])
                    tip(figure, bar, f"{arm}, {label} {kind}: {percent(width)}")
                    left += width
            axes.set_yticks(range(3), [label for _, label in measures])
            axes.invert_yaxis()
            axes.set(xlim=(0, 1))
            axes.tick_params(length=0)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
            axes.set_title(arm, fontsize=9)
        marks = [Rectangle((0, 0), 1, 1, color=colors[kind]) for kind in kinds]
        figure.legend(marks, kinds, loc="outside lower center", ncols=min(6, len(kinds)), handlelength=1.0)
    return figure
