"""A run of a preset beside what the paper's release states, cell by cell.

Every cell of the run is a row, and so is every stated number. A cell that the release does not state has no
published value; a stated number that the run does not have says why in its note. Nothing is filled in.

The two are never from the same model unless the run was made on it: `model` and `published_model` say so.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from sinkscope.errors import UsageError
from sinkscope.recipes._cells import NAN, attention_cells, cell, place, score_cells
from sinkscope.recipes._facts import Facts, facts
from sinkscope.recipes._preset import CORRECTED
from sinkscope.recipes._published import Published, published
from sinkscope.recipes._registry import preset, presets
from sinkscope.recipes._setting import Setting

if TYPE_CHECKING:
    from sinkscope.study import Run, Study

COLUMNS = tuple(
    (
        "preset variant scale model prompts task metric quantity arm reference at ours ours_low ours_high n "
        "verdict published published_low published_high relation published_p claim published_n "
        "published_model source note"
    ).split()
)
CURVE_PRESETS = ("paper/table1", "paper/figure2")
TASK_PRESETS = ("paper/table14",)
NOT_OF_A_RUN = ("runtime",)
_LAYERS = (6, 12, 18)
_NAME = re.compile(r"(?P<preset>paper/[A-Za-z0-9_.-]+)(:(?P<variant>[a-z_]+))?(:(?P<scale>[a-z_]+))?")


class Origin(NamedTuple):
    """Which preset a study is."""

    preset: str
    variant: str
    scale: str


def compare(run: Run | str | Path) -> pd.DataFrame:
    """Return ours beside published for the run of a preset.

    Args:
        run: The run, or its folder.

    Returns:
        Columns `COLUMNS`. `ours` with `ours_low` and `ours_high` (over prompts, at the study's level) and
        `n` prompts; `published` as stated, with `relation` where it is not an equality ("~", "<", ">"),
        `claim` where the release says something without a number, and `source`. Empty cells are NaN or empty
        text; `note` gives reasons, remarks on the run, and known faults of the release (D1, D2, ...).

    Raises:
        UsageError: The run is not of a preset of the paper.
        StoreError: It is no run, or not finished.
    """
    from sinkscope.study import Run

    opened = run if isinstance(run, Run) else Run.open(run)
    study = opened.study
    origin = origin_of(study, opened.folder)
    stated = [entry for entry in published(origin.preset) if entry.quantity not in NOT_OF_A_RUN]
    model = _facts(study.model)
    cells = [
        *score_cells(opened, by_task=origin.preset in TASK_PRESETS),
        *attention_cells(
            opened,
            curves=origin.preset in CURVE_PRESETS,
            by_kind=model is not None and model.family == "unet",
        ),
    ]
    repaired = preset(origin.preset).repaired if origin.variant == CORRECTED else ()
    rows = _joined(cells, stated, study, _layers_of_the_paper(model, cells), repaired)
    about = {
        **origin._asdict(),
        "model": study.model,
        "prompts": _prompts_in_words(opened),
    }
    frame = pd.DataFrame([{**about, **row} for row in rows], columns=list(COLUMNS))
    texts = frame.select_dtypes(exclude="number").columns.difference(["n", "published_n"])
    return frame.fillna(dict.fromkeys(texts, "")).astype({"n": "Int64", "published_n": "Int64"})


def origin_of(study: Study, folder: Path) -> Origin:
    """Which preset a study is, from its name.

    Raises:
        UsageError: It is none of the paper.
    """
    match = _NAME.fullmatch(study.name)
    known = {name for entry in presets() for name in (entry.name, *entry.aliases)}
    if match is None or match["preset"] not in known:
        raise UsageError(
            f"{folder} is a run of the study {study.name!r}, which is no preset of the paper, so there is "
            "nothing to compare it with. Expected a run made with `sinkscope run paper/...`; `sinkscope "
            "presets` lists them."
        )
    return Origin(match["preset"], match["variant"] or CORRECTED, match["scale"] or "")


def _prompts_in_words(run: Run) -> str:
    study = run.study
    source = study.prompts if isinstance(study.prompts, str) else "given"
    tasks = {unit.prompt.task for unit in run.plan.units}
    count = len({unit.prompt.id for unit in run.plan.units})
    return f"{count} of {source}, {len(tasks)} task{'s' if len(tasks) > 1 else ''}"


def _joined(
    cells: list[dict[str, Any]],
    stated: list[Published],
    study: Study,
    layers: dict[int, int],
    repaired: tuple[str, ...],
) -> list[dict[str, Any]]:
    """What is stated first, with the run's own cells beside it, then the cells that are not stated."""
    by_key = {_key(row): index for index, row in enumerate(cells)}
    beside: dict[int, Published] = {}
    alone: list[dict[str, Any]] = []
    for entry in stated:
        at = dict(entry.at)
        if "layer" in at and layers:
            at["layer"] = layers.get(at["layer"], at["layer"])
        index = by_key.get(("all", entry.metric, entry.quantity, entry.arm, entry.reference, place(at)))
        if index is None or index in beside:
            alone.append({**_empty(entry), **_stated(entry, _why_not(entry, study), repaired)})
        else:
            beside[index] = entry
            if at != dict(entry.at):
                remark = f"layer {at['layer']} here stands for layer {entry.at['layer']} there"
                cells[index] = {**cells[index], "note": _notes(cells[index]["note"], remark)}
    rows = [
        {**row, **(_stated(beside[index], row["note"], repaired) if index in beside else _nothing())}
        for index, row in enumerate(cells)
    ]
    return sorted([*rows, *alone], key=lambda row: row["source"] == "")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("task", "metric", "quantity", "arm", "reference", "at"))


def _stated(entry: Published, note: str, repaired: tuple[str, ...]) -> dict[str, Any]:
    defects = f"published: known faults {', '.join(entry.defects)}" if entry.defects else ""
    if not_here := [defect for defect in entry.defects if defect in repaired]:
        defects += f", of which this run does not have {', '.join(not_here)}"
    remark = f"published: {entry.note}" if entry.note else ""
    p = "" if entry.p is None else f"{'' if entry.p_relation == '=' else entry.p_relation}{entry.p:g}"
    return {
        "published": NAN if entry.value is None else entry.value,
        "published_low": NAN if entry.low is None else entry.low,
        "published_high": NAN if entry.high is None else entry.high,
        "relation": entry.relation or "",
        "published_p": p,
        "claim": entry.claim or "",
        "published_n": entry.n,
        "published_model": entry.model,
        "source": entry.source,
        "note": _notes(note, remark, defects),
    }


def _nothing() -> dict[str, Any]:
    texts = ("relation", "published_p", "claim", "published_model", "source")
    numbers = ("published", "published_low", "published_high")
    return {**dict.fromkeys(numbers, NAN), **dict.fromkeys(texts, ""), "published_n": None}


def _empty(entry: Published) -> dict[str, Any]:
    return cell(entry.metric, entry.quantity, arm=entry.arm, reference=entry.reference, at=entry.at)


def _why_not(entry: Published, study: Study) -> str:
    """Why a run has no number beside a stated one."""
    from sinkscope import metrics

    if entry.quantity in ("range", "bound", "prompt"):
        return "ours: said in general or of one image, no cell of a run"
    for arm in (entry.arm, entry.reference):
        if arm is not None and arm not in study.arm_names:
            return f"ours: this run has no arm {arm!r}"
    if entry.metric in metrics.names() and entry.metric not in study.metrics:
        return f"ours: {entry.metric} was not computed; sinkscope score RUN --metrics {entry.metric}"
    return "ours: the run did not record it"


def _facts(model: str) -> Facts | None:
    """Depth and kind of the run's model; None where its configuration is not at hand any more."""
    try:
        return facts(model)
    except UsageError:
        return None


def _layers_of_the_paper(model: Facts | None, cells: list[dict[str, Any]]) -> dict[int, int]:
    """The paper's layers 6, 12 and 18 of 24 -> the layers at the same fractions of the run's model.

    Without its depth: the layers that were watched, if they are three.
    """
    if model is not None:
        return {} if model.family == "unet" else dict(zip(_LAYERS, Setting(model, "full").three, strict=True))
    watched = sorted(
        {int(found[1]) for row in cells if (found := re.match(r"layer (\d+)", row["at"] or "")) is not None}
    )
    return dict(zip(_LAYERS, watched, strict=True)) if len(watched) == len(_LAYERS) else {}


def _notes(*notes: str | float | None) -> str:
    kept = (str(note) for note in notes if note and not (isinstance(note, float) and math.isnan(note)))
    return "; ".join(note.rstrip(".") for note in kept)
