"""Difference of differences on four arms: does an edit do more than its control, each against its own
reference?

With one shared baseline the baseline cancels and `effects` has this number as its kind "edit-control". Where
edit and control are made under different settings (another guidance scale, step count or model), each has its
own baseline, nothing cancels, and this is the table to use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sinkscope.errors import UsageError

from ._bootstrap import Floats, checked
from ._scores import LEAST_PAIRS, Complete, Gate, check_names, complete, read_scores
from ._summary import NAN, PROPORTIONS, Sample, Summary, adjust, summarise
from ._tests import tost
from ._verdict import TOST_ALPHA, inside, verdict

DOUBLE_COLUMNS = tuple(
    (
        "metric task contrast edit edit_reference control control_reference n_prompts n_units missing_units "
        "effect_edit effect_control effect sd dz ci_low ci_high level p_t p_wilcoxon p_signflip p_holm p_bh "
        "family_size margin p_tost ci90_low ci90_high verdict note interval"
    ).split()
)


@dataclass(frozen=True)
class DoubleContrast:
    """Four arms, declared before looking: `(edit - edit_reference) - (control - control_reference)`."""

    edit: str
    edit_reference: str
    control: str
    control_reference: str

    def __post_init__(self) -> None:
        if self.edit == self.edit_reference or self.control == self.control_reference:
            raise UsageError(f"Contrast {self.name!r} compares an arm with itself, expected different arms.")

    @property
    def arms(self) -> tuple[str, str, str, str]:
        """The four arms in the order of the fields."""
        return self.edit, self.edit_reference, self.control, self.control_reference

    @property
    def name(self) -> str:
        """Shown in tables."""
        return f"({self.edit} - {self.edit_reference}) - ({self.control} - {self.control_reference})"


def difference_of_differences(
    edit: ArrayLike, edit_reference: ArrayLike, control: ArrayLike, control_reference: ArrayLike
) -> Floats:
    """`(edit - edit_reference) - (control - control_reference)` of the same prompts, `[..., n]` each.

    One number per prompt, to be tested against zero with every test of this room (two-stage analysis; equals
    the interaction of a two-by-two repeated-measures analysis).
    """
    parts = [checked(part, least=1) for part in (edit, edit_reference, control, control_reference)]
    if len({part.shape for part in parts}) > 1:
        raise UsageError(
            f"Got shapes {', '.join(str(part.shape) for part in parts)}, expected the same prompts in all "
            "four arms."
        )
    return (parts[0] - parts[1]) - (parts[2] - parts[3])


def double_effects(
    scores: pd.DataFrame,
    *,
    contrasts: Sequence[DoubleContrast],
    metrics: Sequence[str] | None = None,
    margins: Mapping[str, float] | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    least_pairs: float = LEAST_PAIRS,
) -> pd.DataFrame:
    """Estimate and judge differences of differences, over all prompts and within each task.

    Arguments, families and the rule are those of `effects`; a unit counts when all four arms have a score.

    Returns:
        Columns `DOUBLE_COLUMNS`.

    Raises:
        UsageError: An unknown arm or metric, no contrast, a margin that is not positive.
        NonFiniteError: Too few complete units in every row.
    """
    table = read_scores(scores)
    chosen = tuple(metrics) if metrics is not None else table.metrics
    check_names("metric", chosen, table.metrics)
    check_names("arm", tuple(arm for c in contrasts for arm in c.arms), table.arms)
    if not contrasts:
        raise UsageError("Got no contrasts, expected at least one DoubleContrast.")
    cells: list[tuple[str, str, DoubleContrast, Complete, str]] = []
    gate = Gate(least_pairs)
    for metric in chosen:
        for contrast in contrasts:
            for task in ["all", *np.unique(table.task).tolist()]:
                case, refused = complete(table, metric, contrast.arms, task), ""
                if task == "all":
                    what = f"Contrast {contrast.name}, metric {metric}"
                    case, refused = gate.admit(case, what=what, scored=table.scored(metric, contrast.arms))
                cells.append((metric, task, contrast, case, refused))
    gate.close()
    samples = [
        Sample(
            difference_of_differences(*case.values) if case.prompts else np.empty(0),
            case.prompts,
            case.seeds if table.is_binary(metric) else None,
            span=2.0,
        )
        for metric, _, _, case, _ in cells
    ]
    found = summarise(samples, level=level, draws=draws, seed=seed)
    adjusted = adjust([summary.p_t for summary in found], [task == "all" for _, task, *_ in cells])
    rows = []
    for index, ((metric, task, contrast, case, refused), sample, summary) in enumerate(
        zip(cells, samples, found, strict=True)
    ):
        margin = float((margins or {}).get(metric, NAN))
        row = {"metric": metric, "task": task, "level": level, "margin": margin}
        row |= {"p_bh": adjusted.bh[index], "family_size": adjusted.size[index]}
        row |= _row(contrast, case, sample.values, summary, adjusted.holm[index], margin, level, refused)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(DOUBLE_COLUMNS))


def _row(
    contrast: DoubleContrast,
    case: Complete,
    d: Floats,
    found: Summary,
    p_holm: float,
    margin: float,
    level: float,
    refused: str,
) -> dict[str, Any]:
    tested = d.size >= 2
    p_tost = float(tost(d, margin).p) if tested and not np.isnan(margin) else NAN
    identical = tested and not d.any()
    ruling = verdict(
        p_holm=p_holm,
        ci=found.ci,
        level=level,
        p_tost=p_tost,
        margin=margin,
        identical=identical and found.interval != PROPORTIONS,
    )
    notes = []
    if case.missing:
        notes.append(f"{case.missing} of {case.n_units + case.missing} units missing ({case.reasons})")
    if not tested:
        notes.append(refused or f"{d.size} prompts: nothing to test")
    elif d.size < 10:
        notes.append(f"{d.size} prompts only: too few to trust the interval")
    if p_tost < TOST_ALPHA and not identical and not inside(found.ci, margin):
        notes.append("not equivalent: TOST alone would accept, but the interval reaches beyond the margin")
    means = case.values.mean(axis=-1) if d.size else np.full(4, NAN)
    names = ("edit", "edit_reference", "control", "control_reference")
    return {
        "contrast": contrast.name,
        **dict(zip(names, contrast.arms, strict=True)),
        **{"n_prompts": d.size, "n_units": case.n_units, "missing_units": case.missing},
        "effect_edit": float(means[0] - means[1]),
        "effect_control": float(means[2] - means[3]),
        **{"effect": found.mean, "sd": found.sd, "dz": found.dz},
        **{"ci_low": found.ci[0], "ci_high": found.ci[1]},
        **{"ci90_low": found.ci90[0], "ci90_high": found.ci90[1]},
        **{"p_t": found.p_t, "p_wilcoxon": found.p_wilcoxon, "p_signflip": found.p_signflip},
        **{"p_holm": p_holm, "p_tost": p_tost, "verdict": ruling, "note": "; ".join(notes)},
        "interval": found.interval,
    }
