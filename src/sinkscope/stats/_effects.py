"""The table of effects: every declared contrast, for every metric, over all prompts and within each task.

Per contrast and metric, `d = score(arm) - score(reference)` of the same unit, averaged over seeds within each
prompt. With a shared baseline the difference of differences `(edit - baseline) - (control - baseline)` is
`edit - control` exactly, since the baseline cancels; the kind "edit-control" is that number. `effect` over
task "all" weighs prompts equally (GenEval's own overall score is the unweighted mean of the task rows).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from sinkscope.errors import UsageError, unknown

from ._intervals import Method
from ._margin import SEED, resolve_margins
from ._scores import LEAST_PAIRS, Complete, Gate, Scores, check_names, complete, read_scores
from ._summary import AUTO, NAN, PROPORTIONS, Adjusted, Sample, Summary, adjust, summarise
from ._tests import tost
from ._verdict import TOST_ALPHA, inside, interval_verdict, is_different, verdict

Kind = Literal["arm-baseline", "edit-control"]
Family = Literal["all", "metric", "table"]
OWN = "own"
"""The margin was measured on an arm of this contrast, so the contrast is not tested against it."""

EFFECT_COLUMNS = tuple(
    (
        "metric task contrast kind arm reference n_prompts n_units mean_arm mean_reference effect sd dz "
        "ci_low ci_high level p_t p_wilcoxon p_holm margin p_tost ci90_low ci90_high verdict direction note "
        "missing_units family_size p_bh p_signflip margin_from interval_verdict interval"
    ).split()
)


@dataclass(frozen=True)
class Contrast:
    """Two arms to compare, declared before looking."""

    arm: str
    """The arm whose effect is asked for."""
    reference: str
    """What it is compared with: the baseline, or its control."""
    kind: Kind = "arm-baseline"
    """"arm-baseline", or "edit-control" for the difference of differences."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown("contrast kind", self.kind, get_args(Kind))
        if self.arm == self.reference:
            raise UsageError(f"Contrast compares arm {self.arm!r} with itself, expected two different arms.")

    @property
    def name(self) -> str:
        """Shown in tables: "sink - random"."""
        return f"{self.arm} - {self.reference}"


class _Cell(NamedTuple):
    metric: str
    task: str
    contrast: Contrast
    case: Complete
    margin: float
    margin_from: str
    gaps: bool
    refused: str
    binary: bool
    same: bool

    @property
    def sample(self) -> Sample:
        seeds = self.case.seeds if self.binary else None
        return Sample(self.case.values[0] - self.case.values[1], self.case.prompts, seeds)


def effects(
    scores: pd.DataFrame,
    *,
    contrasts: Sequence[Contrast],
    metrics: Sequence[str] | None = None,
    margins: Mapping[str, float | Literal["seed"]] | None = None,
    seed_arms: Sequence[str] = (),
    measured: Mapping[str, float] | None = None,
    identical: Collection[tuple[str, str]] = (),
    by_task: bool = True,
    interval: Method | Literal["auto"] = AUTO,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    family: Family = "all",
    least_pairs: float = LEAST_PAIRS,
) -> pd.DataFrame:
    """Estimate and judge every contrast for every metric, over all prompts (task "all") and within each task.

    Args:
        scores: Long table `unit prompt_id task arm metric value status`; `value` counts where `status` is
            "ok".
        contrasts: Declared comparisons.
        metrics: Which metrics; all in the table by default.
        margins: Metric -> smallest difference of interest, in the metric's units. Without one, nothing but
            identical arms is ever called equivalent. "seed" measures it (`calibrated_margin`).
        seed_arms: Arms without edits that repeat the baseline with other seeds, for the margin "seed". Their
            own contrasts are not tested against a margin they have made.
        measured: Metric -> the margin where it is "seed", if it was measured before (on more scores, say).
        identical: Pairs of arms whose images are known to be the same, so that equal 0/1 scores are no
            chance.
        by_task: Analyse within each task too.
        interval: How intervals are made. "auto": for a score that is 0 or 1 throughout the table
            `paired_proportions`, for others "combined"; the column `interval` says which. Else a method of
            `mean_interval`, for every score.
        level: Confidence level of `ci_low`, `ci_high`; its complement is the threshold of "different".
        draws: Bootstrap samples of prompts.
        seed: Key of the bootstrap; a row depends on it, on its own scores and (through Holm) on its family
            only.
        family: What Holm adjusts together. "all": every contrast and metric over all prompts is one family,
            and the rows by task, a breakdown, are a second. "metric": the same two within each metric.
            "table": every row.
        least_pairs: Share of units that must have both scores over all prompts. A contrast below it is
            refused for that metric: its row has no numbers and says why. A task below it gets no verdict.

    Returns:
        Columns `EFFECT_COLUMNS`; one row per contrast, metric and task. `verdict` follows the rule of
        `stats._verdict`; `direction` says whether the arm lies "higher" or "lower" than its reference, "none"
        at zero.

    Raises:
        UsageError: An unknown arm, metric or family, a margin that is not positive, a malformed table.
        NonFiniteError: Too few complete pairs in every contrast, or scores marked ok that are not finite.
    """
    table = read_scores(scores)
    chosen = tuple(metrics) if metrics is not None else table.metrics
    given = dict(margins or {})
    _check(table, contrasts, chosen, given, level=level, family=family)
    known = {m: (measured or {}).get(m, value) if value == SEED else value for m, value in given.items()}
    limits = resolve_margins(scores, known, seed_arms, draws=draws, seed=seed)
    cells: list[_Cell] = []
    gate = Gate(least_pairs)
    for metric in chosen:
        binary = table.is_binary(metric)
        for contrast in contrasts:
            limit, source = limits.get(metric, NAN), _margin_from(given.get(metric), contrast, seed_arms)
            limit = NAN if source == OWN else limit
            same = (contrast.arm, contrast.reference) in identical
            for task, case, gaps, refused in _cases(table, metric, contrast, gate, by_task=by_task):
                cells.append(_Cell(metric, task, contrast, case, limit, source, gaps, refused, binary, same))
    gate.close()
    samples = [cell.sample for cell in cells]
    found = summarise(samples, level=level, draws=draws, seed=seed, interval=interval)
    adjusted = adjust([summary.p_t for summary in found], [_family(cell, family) for cell in cells])
    rows = [
        _row(cell, summary, adjusted, index, level=level)
        for index, (cell, summary) in enumerate(zip(cells, found, strict=True))
    ]
    return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS))


def _check(
    table: Scores,
    contrasts: Sequence[Contrast],
    metrics: tuple[str, ...],
    margins: Mapping[str, float | str],
    *,
    level: float,
    family: str,
) -> None:
    check_names("metric", metrics, table.metrics)
    check_names("metric (in margins)", tuple(margins), table.metrics)
    check_names("arm", tuple(arm for c in contrasts for arm in (c.arm, c.reference)), table.arms)
    if not contrasts or len(set(contrasts)) < len(contrasts):
        raise UsageError(
            f"Got {len(contrasts)} contrasts, {len(set(contrasts))} of them different; expected one or more, "
            "each declared once."
        )
    if family not in get_args(Family):
        raise unknown("family", family, get_args(Family))
    if not 0.5 < level < 1:
        raise UsageError(f"Got level={level}, expected a confidence level between 0.5 and 1 such as 0.95.")
    for metric, margin in margins.items():
        if margin == SEED:
            continue
        if isinstance(margin, str) or not (np.isfinite(margin) and margin > 0):
            raise UsageError(
                f"Got margin {margin!r} for {metric!r}, expected a positive number in the metric's units, or "
                '"seed" to measure it from the noise between seeds.'
            )


def _cases(
    table: Scores, metric: str, contrast: Contrast, gate: Gate, *, by_task: bool
) -> list[tuple[str, Complete, bool, str]]:
    """Task, complete cases, whether too few pairs are left for a verdict, and why it is refused."""
    pair = (contrast.arm, contrast.reference)
    what = f"Contrast {contrast.name}, metric {metric}"
    whole, refused = gate.admit(complete(table, metric, pair), what=what, scored=table.scored(metric, pair))
    cases = [("all", whole, bool(refused), refused)]
    for task in np.unique(table.task).tolist() if by_task else ():
        case = complete(table, metric, pair, task)
        cases.append((task, case, gate.has_gaps(case), ""))
    return cases


def _margin_from(given: float | str | None, contrast: Contrast, seed_arms: Sequence[str]) -> str:
    if given is None:
        return ""
    if given != SEED:
        return "declared"
    return OWN if {contrast.arm, contrast.reference} & set(seed_arms) else "seed"


def _family(cell: _Cell, family: Family) -> tuple[object, ...]:
    split = "all prompts" if cell.task == "all" else "by task"
    return {"all": (split,), "metric": (split, cell.metric), "table": ()}[family]


def _row(cell: _Cell, found: Summary, adjusted: Adjusted, index: int, *, level: float) -> dict[str, Any]:
    d, margin, contrast, p_holm = cell.sample.values, cell.margin, cell.contrast, adjusted.holm[index]
    p_tost = float(tost(d, margin).p) if d.size >= 2 and not np.isnan(margin) else NAN
    equal = d.size >= 2 and not d.any()
    ruling = verdict(
        p_holm=p_holm,
        ci=found.ci,
        level=level,
        p_tost=p_tost,
        margin=margin,
        identical=equal and (cell.same or found.interval != PROPORTIONS),
    )
    if cell.gaps:
        ruling = "inconclusive"
    nonzero = ruling == "equivalent" and is_different(p_holm, found.ci, level)
    means = cell.case.values.mean(axis=-1) if d.size else (NAN, NAN)
    about = {"metric": cell.metric, "task": cell.task, "contrast": contrast.name, "kind": contrast.kind}
    counts = {"n_prompts": d.size, "n_units": cell.case.n_units, "missing_units": cell.case.missing}
    size_of = {"effect": found.mean, "sd": found.sd, "dz": found.dz, "margin": margin, "level": level}
    ends = zip(("ci_low", "ci_high", "ci90_low", "ci90_high"), (*found.ci, *found.ci90), strict=True)
    tests = {"p_t": found.p_t, "p_wilcoxon": found.p_wilcoxon, "p_signflip": found.p_signflip}
    tests |= {"p_holm": p_holm, "p_bh": adjusted.bh[index], "p_tost": p_tost}
    return {
        **about,
        **{"arm": contrast.arm, "reference": contrast.reference},
        **counts,
        **{"mean_arm": float(means[0]), "mean_reference": float(means[1])},
        **size_of,
        **dict(ends),
        **tests,
        "verdict": ruling,
        "direction": "higher" if found.mean > 0 else "lower" if found.mean < 0 else "none",
        "note": "; ".join(_notes(cell, d, found, p_tost, nonzero=nonzero)),
        "family_size": adjusted.size[index],
        "margin_from": cell.margin_from,
        "interval_verdict": interval_verdict(ci=found.ci, ci90=found.ci90, margin=margin) or "",
        "interval": found.interval,
    }


def _notes(cell: _Cell, d: np.ndarray, found: Summary, p_tost: float, *, nonzero: bool) -> list[str]:
    notes = []
    if cell.case.missing:
        total = cell.case.n_units + cell.case.missing
        notes.append(f"{cell.case.missing} of {total} pairs missing ({cell.case.reasons})")
    if cell.refused:
        return [*notes, cell.refused]
    if cell.gaps:
        notes.append("too few pairs in this task for a verdict")
    if cell.margin_from == OWN:
        notes.append("the margin was measured on this arm: not tested against it")
    if d.size < 2:
        return [*notes, f"{d.size} prompts: nothing to test"]
    notes += _shape_notes(cell, d, found)
    if p_tost < TOST_ALPHA and d.any() and not inside(found.ci, cell.margin):
        notes.append("not equivalent: TOST alone would accept, but the interval reaches beyond the margin")
    if d.size < 10:
        notes.append(f"{d.size} prompts only: too few to trust the interval")
    reference = cell.case.values[1]
    if d.any() and reference.min() == reference.max() and cell.contrast.kind == "arm-baseline":
        notes.append(f"the reference scores {reference[0]:g} on every prompt (a distance to itself?)")
    if nonzero:
        notes.append("non-zero, and smaller than the margin")
    return notes


def _shape_notes(cell: _Cell, d: np.ndarray, found: Summary) -> list[str]:
    """What the differences do to the interval."""
    changed = np.count_nonzero(d)
    if found.interval == PROPORTIONS:
        if changed:
            return []
        open_ = f"{d.size} prompts do not exclude differences up to {found.ci[1]:.2g}"
        return [f"every pair is identical; a 0/1 score: {'the images are the same' if cell.same else open_}"]
    if not changed:
        said = "every pair is identical: zero-width interval, equivalent for any margin"
        # What n equal pairs leave open at 95 %, the rule of three.
        return [
            said
            if cell.same
            else f"{said}; up to {1 - 0.05 ** (1 / d.size):.0%} of all prompts may yet change"
        ]
    notes = []
    if d.min() == d.max():
        notes.append(
            "every difference is the same number: zero-width interval, p from the exact sign-flip test"
        )
    elif np.isnan(found.ci[0]):
        notes.append(f"{found.interval} interval undefined for these values")
    if changed < 10 <= d.size:
        notes.append(f"{changed} of {d.size} prompts differ: too few to trust the interval")
    return notes
