"""The page: everything a template needs, and one self-contained HTML file written atomically."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sinkscope.errors import StoreError
from sinkscope.report import _fig_dynamics as fig_dynamics
from sinkscope.report import _fig_effects as fig_effects
from sinkscope.report import _identity as identity
from sinkscope.report import _matching as matching
from sinkscope.report import _metrics as metrics
from sinkscope.report import _tables as tables
from sinkscope.report import _verdicts as verdicts
from sinkscope.report import _words as words
from sinkscope.report._arms import Arm, pairs, read_arms
from sinkscope.report._canvas import Drawing, to_svg
from sinkscope.report._data import Gap, RunData, read
from sinkscope.report._dynamics import baseline_rows, branches, in_branch, query_group, top_rows
from sinkscope.report._format import count
from sinkscope.report._further import further
from sinkscope.report._gallery import Gallery, build_gallery
from sinkscope.report._sinks import BRANCH_WORDS, sinks


@dataclass(frozen=True)
class Picture:
    """One figure ready for the page."""

    name: str
    svg: Markup
    caption: str


def build(run_folder: Path | str, *, out: Path | str | None = None) -> Path:
    """Write the report of a run as one self-contained HTML file.

    Args:
        run_folder: A folder written by `sinkscope.run`; only its tables, images and study.yaml are read.
        out: Where to write; default `report.html` in the run folder.

    Returns:
        The path of the page. It needs no network and no other file.

    Raises:
        StoreError: The folder is no run folder, a file in it is damaged, or the page cannot be written.

    Example:
        >>> build("runs/first")  # doctest: +SKIP
        PosixPath('runs/first/report.html')
    """
    data = read(run_folder)
    page = render(data)
    target = Path(out) if out is not None else data.folder / "report.html"
    _write(target, page)
    return target


def render(data: RunData) -> str:
    """The page as a string."""
    environment = Environment(
        loader=PackageLoader("sinkscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = Path(__file__).parent / "templates"
    static = {n: Markup((folder / f"report.{n}").read_text(encoding="utf-8")) for n in ("css", "js")}
    return environment.get_template("report.html.j2").render(**context(data), **static)


def context(data: RunData) -> dict[str, Any]:
    """All the values of the template."""
    effects, scores, matches = (data.table(name) for name in ("effects", "scores", "matches"))
    arms = read_arms(data.study, _arm_names(data))
    gallery = build_gallery(data.folder, scores, arms)
    return {
        "title": str(data.study.get("name", data.folder.name)),
        "headline": words.headline(effects, arms, matches),
        "findings": [
            sinks(_described(data, "traces"), _described(data, "summary"), scores),
            words.removal(effects, arms),
            words.specificity(effects, arms, matches),
            words.drift(effects, arms),
        ],
        "board": verdicts.board(words.specific_rows(effects, arms), arms),
        "facts": _facts(data, arms),
        "gaps": [*data.gaps, *_more_gaps(data, arms, gallery)],
        "arms": arms,
        "metric_words": metrics.words,
        "shared_notes": verdicts.shared_notes,
        "own_note": verdicts.own_note,
        "intervals": verdicts.intervals,
        "further": further(data, arms),
        "verdicts": {} if effects is None else verdicts.verdicts(effects, arms),
        "forests": _forests(data, arms),
        "doses": _doses(data, arms),
        "gallery": gallery,
        "triplets": pairs(arms, effects),
        "sorts": _sorts(gallery),
        "matches": matching.table(matches),
        "identity": identity.section(data, arms, _picture),
        **_dynamics_context(data),
        **_tables_context(data, arms),
    }


def _dynamics_context(data: RunData) -> dict[str, Any]:
    traces, summary, scores = _described(data, "traces"), _described(data, "summary"), data.table("scores")
    seen = summary if summary is not None else traces
    names = [] if seen is None else branches(baseline_rows(seen))
    return {
        "queries": "" if seen is None else query_group(seen),
        "branch": BRANCH_WORDS.get(names[0], names[0]) if names else "",
        "dynamics": _dynamics_pictures(traces, summary),
        "layers": None if summary is None else tables.layers(summary, scores),
        "tokens": None if traces is None else tables.tokens(traces),
        "branch_shares": None if traces is None else tables.branch_shares(traces, scores),
    }


def _tables_context(data: RunData, arms: dict[str, Arm]) -> dict[str, Any]:
    scores, receipts = data.table("scores"), data.table("receipts")
    replacements, dose = data.table("replacements"), data.table("dose")
    return {
        "receipts": None if receipts is None else tables.receipts(receipts, arms),
        "replacements": None if replacements is None else tables.replacements(replacements),
        "slopes": None if dose is None else tables.slopes(dose),
        "skipped": tables.skipped(scores, data.study),
        "provenance": tables.provenance(data.record, data.study, scores),
        "yaml": tables.yaml_text(data.record) if data.record else "",
    }


def _described(data: RunData, name: str) -> Any:
    """The table when it holds rows of the baseline arm, which is the one the page describes."""
    frame = data.table(name)
    if frame is None:
        return None
    return frame if len(top_rows(frame) if name == "traces" else in_branch(frame)) else None


def _arm_names(data: RunData) -> list[str]:
    names: dict[str, None] = {}
    for table in ("scores", "effects", "receipts"):
        frame = data.table(table)
        names |= {} if frame is None else dict.fromkeys(map(str, frame["arm"].drop_duplicates()))
    return list(names)


def _more_gaps(data: RunData, arms: dict[str, Arm], gallery: Gallery) -> list[Gap]:
    gaps = []
    for name, what in (("traces", "sink tokens"), ("summary", "sink mass")):
        if data.table(name) is not None and _described(data, name) is None:
            gaps.append(
                Gap(f"no {what} of the baseline", f"{name}.parquet holds no row of the arm 'baseline'")
            )
    if not any(s for s in arms.values() if s.role == "sink"):
        gaps.append(Gap("no sink removal", "no arm of the study masks the keys of largest mass"))
    if not any(s for s in arms.values() if s.role in ("random", "segment")):
        gaps.append(Gap("no control", "no arm of the study removes random keys"))
    gaps += _refused(data.table("effects"))
    for path in gallery.damaged:
        gaps.append(Gap("an image", f"{path} cannot be decoded; run the study again to make it anew"))
    if not gallery.cards:
        gaps.append(Gap("no gallery", gallery.note.rstrip(".")))
    return gaps


def _refused(effects: Any) -> list[Gap]:
    """Effects that too few complete pairs are left for, one line per metric."""
    if effects is None or "note" not in effects.columns:
        return []
    rows = effects[(effects["task"] == "all") & effects["note"].fillna("").str.contains("refused: ")]
    return [
        Gap(
            f"no effect in {metrics.metric_name(str(metric))} of {count(len(part), 'contrast')}",
            f"{part['contrast'].iloc[0]}: {part['note'].iloc[0]}",
        )
        for metric, part in rows.groupby("metric", sort=False)
    ]


def _facts(data: RunData, arms: dict[str, Arm]) -> list[str]:
    scores, study = data.table("scores"), data.study
    facts = [f"model {study['model']}"] if "model" in study else []
    if scores is not None:
        n = scores["prompt_id"].nunique() if "prompt_id" in scores.columns else 0
        facts.append(f"{scores['unit'].nunique()} units" + (f" ({n} prompts)" if n else ""))
    facts.append(f"{len(arms)} arms")
    facts += [f"{study['steps']} steps"] if "steps" in study else []
    return facts


def _picture(figure: Drawing, name: str) -> Picture:
    return Picture(name, Markup(to_svg(figure, name)), figure.caption)


def _dynamics_pictures(traces: Any, summary: Any) -> list[Picture]:
    found = []
    if summary is not None:
        found.append(_picture(fig_dynamics.sink_heatmap(summary), "heat"))
        found.append(_picture(fig_dynamics.sink_lines(summary), "lines"))
    if traces is not None:
        found.append(_picture(fig_dynamics.sink_shares(traces), "by-layer"))
        found.append(_picture(fig_dynamics.sink_shares(traces, by="step"), "by-step"))
    return found


def _metric_names(data: RunData) -> list[str]:
    effects = data.table("effects")
    return [] if effects is None else metrics.order([str(m) for m in effects["metric"].drop_duplicates()])


def _forests(data: RunData, arms: dict[str, Arm]) -> list[Picture]:
    return [
        _picture(fig_effects.forest(data.tables["effects"], metric, arms), f"forest-{i}")
        for i, metric in enumerate(_metric_names(data))
    ]


def _doses(data: RunData, arms: dict[str, Arm]) -> list[Picture]:
    """Only where at least two budgets make a curve."""
    budgets = {a.budget for a in arms.values() if a.role == "sink" and a.budget is not None}
    if len(budgets) < 2:
        return []
    return [
        _picture(fig_effects.dose_response(data.tables["effects"], metric, arms), f"dose-{i}")
        for i, metric in enumerate(_metric_names(data))
    ]


def _sorts(gallery: Gallery) -> list[str]:
    """Distances that every card can be sorted by."""
    return list(dict.fromkeys(m for card in gallery.cards for d in card.distances.values() for m in d))


def _write(path: Path, page: str) -> None:
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", suffix=".html", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(
            f"Could not write {path}: {error.strerror or error}. Check space and permissions; "
            "the run itself is untouched."
        ) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
