"""The figures of a report, for notebooks and for files.

Each function takes a table as `Run` returns it and gives back a matplotlib `Figure`, so
`sink_heatmap(run.summary())` shows in a notebook and `.savefig("heat.png")` writes it. `write` makes all
figures of a run folder. No number is computed here that the tables do not hold, except means and intervals
named in `_dynamics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from sinkscope.errors import StoreError, UsageError, unknown
from sinkscope.report import _metrics as metrics
from sinkscope.report._arms import Arm, pairs, read_arms
from sinkscope.report._canvas import PAPER, Drawing, style
from sinkscope.report._data import RunData, read
from sinkscope.report._dynamics import baseline_rows
from sinkscope.report._fig_dynamics import draw_heatmap, sink_heatmap, sink_lines, sink_shares
from sinkscope.report._fig_effects import dose_response, draw_dose, forest
from sinkscope.report._fig_identity import identity_panels, overlap_panels, takeover_bars
from sinkscope.report._gallery import pictures
from sinkscope.report._identity import figures as identity_figures

__all__ = [
    "dose_response",
    "forest",
    "identity_panels",
    "overlap_panels",
    "overview",
    "read_arms",
    "sink_heatmap",
    "sink_lines",
    "sink_shares",
    "takeover_bars",
    "triplets",
    "write",
]
FORMATS = ("png", "svg", "pdf")


def triplets(run_folder: Path | str, *, n: int = 4, budget: int | None = None) -> Figure:
    """Baseline, sink removed and random removed side by side for `n` units of different tasks.

    Args:
        run_folder: A run folder.
        n: How many units.
        budget: Which budget; default the smallest.

    Raises:
        UsageError: No arm removes sinks with this budget.
        StoreError: The run holds no images.
    """
    data = read(run_folder)
    names = _triplet_arms(data, budget)
    units = _typical(data, names, n)
    if not units:
        raise StoreError(
            f"{data.folder} holds no unit with an image in each of {', '.join(names)}. Generate them first."
        )
    with style():
        figure = Drawing(figsize=(1.25 * len(names) + 0.2, 1.25 * len(units) + 0.3), layout="constrained")
        _draw_triplets(figure, data, units, names)
    return figure


def overview(run_folder: Path | str, *, budget: int | None = None) -> Figure:
    """One picture of a run: sink mass over steps and layers, dose-response, and example triplets.

    Parts whose tables are missing are left out; a run with none of them is an error.

    Raises:
        StoreError: The run holds neither sink mass, nor effects, nor images.
    """
    data = read(run_folder)
    arms = _arms(data)
    parts = _overview_parts(data, arms, budget)
    if not parts:
        raise StoreError(
            f"{data.folder} holds neither sink mass, nor effects, nor images of a sink arm to draw."
        )
    with style():
        figure = Drawing(figsize=(sum(w for w, _ in parts) + 0.1, 3.5), layout="constrained", facecolor=PAPER)
        figure.caption = "Sink mass over steps and layers, effects over the budget, and example images."
        spots = figure.subfigures(1, len(parts), width_ratios=[w for w, _ in parts], squeeze=False)
        for spot, (_, draw) in zip(spots[0], parts, strict=True):
            draw(spot)
    return figure


def _overview_parts(
    data: RunData, arms: dict[str, Arm], budget: int | None
) -> list[tuple[float, Callable[..., None]]]:
    parts: list[tuple[float, Callable[..., None]]] = []
    summary, effects = data.table("summary"), data.table("effects")
    if summary is not None and len(baseline_rows(summary)):
        parts.append((4.0, lambda spot: draw_heatmap(spot, summary)))
    if effects is not None and any(a.role == "sink" for a in arms.values()):
        names = metrics.order([str(m) for m in effects["metric"].drop_duplicates()])
        # Distances to the baseline image come last: they say what an edit does to the picture.
        parts.append((3.5, lambda spot: draw_dose(spot, effects, names[-1], arms)))
    if any(a.role == "sink" for a in arms.values()):
        shown = _triplet_arms(data, budget)
        units = _typical(data, shown, 3)
        if units:
            parts.append((1.08 * len(shown), lambda spot: _draw_triplets(spot, data, units, shown)))
    return parts


def _arms(data: RunData) -> dict[str, Arm]:
    scores = data.table("scores")
    return read_arms(data.study, [] if scores is None else [str(a) for a in scores["arm"].drop_duplicates()])


def _triplet_arms(data: RunData, budget: int | None) -> list[str]:
    found = pairs(_arms(data), data.table("effects"))
    chosen = [p for p in found if budget is None or p[0].budget == budget]
    if not chosen:
        known = [p[0].budget for p in found]
        raise (
            unknown("budget", budget, known)
            if known
            else UsageError(f"No arm of {data.folder} removes sinks; nothing to compare.")
        )
    sink, control = chosen[0]
    return ["baseline", sink.name, *([control.name] if control else [])]


def _typical(data: RunData, names: Sequence[str], n: int) -> list[str]:
    """Units of different tasks with an image in every arm; of each task the one of median distance."""
    there = set.intersection(*(set(pictures(data.folder / "units" / name)) for name in names))
    scores = data.table("scores")
    if scores is None or "task" not in scores.columns:
        return sorted(there)[:n]
    far = [m for m in scores["metric"].unique() if metrics.words(str(m)).away]
    table = scores[scores["unit"].isin(there) & (scores["arm"] == names[1])]
    if far:
        table = table[table["metric"] == far[0]]
    by_task = []
    for _, part in table.drop_duplicates("unit").sort_values("value").groupby("task", sort=False):
        by_task.append(str(part["unit"].iloc[len(part) // 2]))
    return sorted(by_task)[:n]


def _draw_triplets(figure: Figure, data: RunData, units: Sequence[str], names: Sequence[str]) -> None:
    grid = figure.subplots(len(units), len(names), squeeze=False)
    for row, unit in zip(grid, units, strict=True):
        for axes, name in zip(row, names, strict=True):
            path = pictures(data.folder / "units" / name)[unit]
            try:
                with Image.open(path) as image:
                    image.seek(getattr(image, "n_frames", 1) // 2)  # of a video the frame in the middle
                    axes.imshow(image.convert("RGB"), interpolation="nearest")
            except (OSError, SyntaxError, EOFError) as error:
                raise StoreError(
                    f"{path} cannot be decoded ({error}). Run the study again to make it anew."
                ) from error
            axes.set_axis_off()
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name, fontsize=8.5, loc="center", pad=4)


def write(
    run_folder: Path | str,
    out: Path | str | None = None,
    *,
    formats: Sequence[str] = ("png", "svg"),
    dpi: int = 160,
) -> list[Path]:
    """Write every figure the run has data for.

    Args:
        run_folder: A run folder.
        out: Folder of the figures; default `figures` in the run folder.
        formats: Any of "png", "svg", "pdf".
        dpi: Resolution of PNG files.

    Returns:
        The paths written: `overview`, `sink_heatmap`, `sink_lines`, `sinks_by_layer`, `sinks_by_step`,
        `identity_<branch>`, `overlap`, `takeover`,
        `forest_<metric>`, `dose_<metric>`, `triplets`, as far as the run allows.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown("figure format", name, FORMATS)
    data = read(run_folder)
    folder = Path(out) if out is not None else data.folder / "figures"
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in _all(data).items():
            figure = draw()
            for suffix in formats:
                with style():
                    figure.savefig(folder / f"{name}.{suffix}", dpi=dpi, facecolor=PAPER)
                paths.append(folder / f"{name}.{suffix}")
    except OSError as error:
        raise StoreError(
            f"Could not write figures to {folder}: {error.strerror or error}. The run is untouched."
        ) from error
    return paths


def _all(data: RunData) -> dict[str, Callable[[], Figure]]:
    arms = _arms(data)
    made: dict[str, Callable[[], Figure]] = {}
    summary, traces, effects = (data.table(n) for n in ("summary", "traces", "effects"))
    if _overview_parts(data, arms, None):
        made["overview"] = lambda: overview(data.folder)
    if summary is not None and len(baseline_rows(summary)):
        made |= {"sink_heatmap": lambda: sink_heatmap(summary), "sink_lines": lambda: sink_lines(summary)}
    if traces is not None and len(baseline_rows(traces)):
        made |= {
            "sinks_by_layer": lambda: sink_shares(traces),
            "sinks_by_step": lambda: sink_shares(traces, by="step"),
        }
    made |= identity_figures(data, arms)
    if effects is not None:
        made |= _effect_figures(effects, arms)
    if any(a.role == "sink" for a in arms.values()) and _typical(data, _triplet_arms(data, None), 1):
        made["triplets"] = lambda: triplets(data.folder)
    return made


def _effect_figures(effects: pd.DataFrame, arms: dict[str, Arm]) -> dict[str, Callable[[], Figure]]:
    made: dict[str, Callable[[], Figure]] = {}
    for metric in map(str, effects["metric"].drop_duplicates()):
        safe = "".join(c if c.isalnum() or c in "_-" else "_" for c in metric)
        made[f"forest_{safe}"] = partial(forest, effects, metric, arms)
        if any(a.role == "sink" and a.budget is not None for a in arms.values()):
            made[f"dose_{safe}"] = partial(dose_response, effects, metric, arms)
    return made
