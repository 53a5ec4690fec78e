"""Further tables of the third stage: ratios, boundaries and the effects without one task at a time.

Each is made from the scores and the study alone, like the table of effects, and is an empty table with its
columns where the study gives nothing to fill it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from sinkscope import stats
from sinkscope.stats import Contrast, DoubleContrast
from sinkscope.stats._boundary import BOUNDARY_COLUMNS
from sinkscope.stats._double import DOUBLE_COLUMNS
from sinkscope.stats._leave_out import LEAVE_OUT_COLUMNS
from sinkscope.stats._margin import resolve_margins
from sinkscope.stats._ratio_table import RATIO_COLUMNS

if TYPE_CHECKING:
    from sinkscope.study._study import Study

Ladder = tuple[dict[str, float], dict[str, float] | None]


def seed_arms(study: Study) -> list[str]:
    """Arms that repeat the baseline with other seeds and change nothing else: the noise of margin "seed"."""
    plain = {**study.sampling("baseline"), "seed_shift": None}
    return [
        name
        for name in study.arm_names
        if name not in study.bases
        and not study.edits(name)
        and study.reference(name) == "baseline"
        and study.sampling(name)["seed_shift"]
        and {**study.sampling(name), "seed_shift": None} == plain
    ]


def ratios(
    scores: pd.DataFrame,
    study: Study,
    metrics: Sequence[str],
    declared: Sequence[Contrast],
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """How many times as far from the baseline's image as its control an edit lies: distances only."""
    pairs = [contrast for contrast in declared if contrast.kind == "edit-control"]
    distances = [name for name in metrics if _is_distance(name, study)] if pairs else []
    if scores.empty or not distances:
        return _empty(RATIO_COLUMNS)
    return stats.ratios(scores, contrasts=pairs, metrics=distances, **settings)


def boundaries(
    scores: pd.DataFrame, study: Study, ladders: Iterable[Ladder], settings: Mapping[str, Any]
) -> pd.DataFrame:
    """At which budget each ladder of edits, and its controls, leaves the margin."""
    found = list(ladders) if len(scores) and study.margins else []
    if not found:
        return _empty((*BOUNDARY_COLUMNS, "arms", "controls"))
    only = {name: settings[name] for name in ("draws", "seed")}
    margins = resolve_margins(scores, study.margins, seed_arms(study), **only)
    frames = [
        stats.dose_boundary(
            scores, arms, margins=margins, control=control, baseline=study.base(next(iter(arms))), **settings
        ).assign(arms=", ".join(arms), controls=", ".join(control or {}))
        for arms, control in found
    ]
    return pd.concat(frames, ignore_index=True)


def double_effects(
    scores: pd.DataFrame,
    study: Study,
    metrics: Sequence[str],
    declared: Sequence[DoubleContrast],
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """Differences of differences: the same edits under different settings."""
    if not declared or not metrics or scores.empty:
        return _empty(DOUBLE_COLUMNS)
    only = {name: settings[name] for name in ("draws", "seed")}
    margins = resolve_margins(scores, study.margins, seed_arms(study), **only)
    return stats.double_effects(scores, contrasts=declared, metrics=metrics, margins=margins, **settings)


def leave_one_out(
    scores: pd.DataFrame,
    study: Study,
    metrics: Sequence[str],
    declared: Sequence[Contrast],
    same: Collection[tuple[str, str]],
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """The effects over all prompts with one task left out at a time, where there are several tasks."""
    if not declared or not metrics or scores.empty or scores["task"].nunique() < 2:
        return _empty(LEAVE_OUT_COLUMNS)
    return stats.leave_one_task_out(
        scores,
        contrasts=declared,
        metrics=metrics,
        margins=dict(study.margins),
        seed_arms=seed_arms(study),
        identical=same,
        **settings,
    )


def _is_distance(name: str, study: Study) -> bool:
    """True for a metric that compares with the baseline's image, so that identical images are its zero."""
    from sinkscope import metrics

    return "reference" in metrics.get(name, **study.metric_options.get(name, {})).needs


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(columns=list(columns), dtype="str")
