"""At which dose does an edit begin to matter? The smallest dose whose effect lies beyond the margin.

Three answers, from the differences to the baseline at every dose:

- `within`: the largest dose up to which every dose is shown to be inside the margin (the whole interval
  strictly inside).
- `threshold`: the smallest dose whose mean effect lies beyond the margin, an estimate; its interval says
  which doses the data leave open.
- `boundary`: the smallest dose whose whole interval lies beyond the margin, a proof. Where every larger dose
  lies beyond too, it is the minimum effective dose of the step-down procedure from the largest dose (Ruberg
  1989), which needs no adjustment for the number of doses; where not, the note says so.

Both intervals are percentiles over resampled prompts of the same rule, with a t interval inside each
resample for `boundary`. Their ends are doses of the study, or infinity where the margin is not left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from sinkscope.errors import UsageError

from ._bootstrap import Floats, check_options, checked, keyed_generator, resampled_means
from ._intervals import mean_interval
from ._proportions import paired_proportions
from ._scores import LEAST_PAIRS, Gate, Scores, check_names, complete, read_scores

NAN = math.nan
BOUNDARY_COLUMNS = tuple(
    (
        "metric task series margin doses n_prompts n_units missing_units within threshold threshold_low "
        "threshold_high boundary boundary_low boundary_high direction level note"
    ).split()
)


class Boundary(NamedTuple):
    """Doses, in the units they were given in; see the module for what each one is."""

    within: float
    """NaN when not even the smallest dose is shown to be inside."""
    threshold: float
    """Infinity when no dose's mean leaves the margin."""
    threshold_low: float
    threshold_high: float
    boundary: float
    """NaN when not reached."""
    boundary_low: float
    boundary_high: float
    direction: str
    """"higher" or "lower": on which side the margin is left; "none" when it is not."""
    note: str


def find_boundary(
    differences: ArrayLike,
    doses: ArrayLike,
    margin: float,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    rng: np.random.Generator,
    seeds: ArrayLike | None = None,
) -> Boundary:
    """The doses at which the effect stays inside and leaves the margin.

    Args:
        differences: Arm minus baseline `[dose, prompt]`.
        doses: `[dose]`, ascending, each once.
        margin: Half-width of the margin, in the metric's units.
        level: Confidence level of the intervals.
        draws: Bootstrap samples of prompts.
        rng: From `keyed_generator`; consumed.
        seeds: For 0/1 scores: how many seeds were averaged in each prompt, one number or `[prompt]`.

    Raises:
        UsageError: Shapes that do not fit, doses that do not ascend, a margin that is not positive.
    """
    d, dose = checked(differences), checked(doses, least=1)
    check_options((level,), draws)
    if d.ndim != 2 or dose.ndim != 1 or len(d) != dose.size:
        raise UsageError(
            f"Got differences {d.shape} for doses {dose.shape}, expected [dose, prompt] and [dose]."
        )
    if (np.diff(dose) <= 0).any():
        raise UsageError(f"Got doses {dose.tolist()}, expected them ascending, each once.")
    if not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"Got margin {margin}, expected a positive number in the metric's units.")
    state = rng.bit_generator.state
    (wide,) = (
        mean_interval(d, levels=(level,), draws=draws, rng=rng)
        if seeds is None
        else [paired_proportions(d, level=level, seeds=seeds)]
    )
    inside = (wide.low > -margin) & (wide.high < margin)
    beyond = (wide.low > margin) | (wide.high < -margin)
    # The same draws again, so that the intervals above and the ones below rest on the same resamples.
    rng.bit_generator.state = state
    means, spreads = resampled_means(d, draws, rng, spread=True)
    reach = stats.t.isf((1 - level) / 2, d.shape[1] - 1) / math.sqrt(d.shape[1])
    safe = int(np.argmin(inside)) if not inside.all() else dose.size
    outside = np.abs(d.mean(axis=1)) > margin
    first = int(np.argmax(beyond)) if beyond.any() else None
    shown = first if first is not None else int(np.argmax(outside)) if outside.any() else None
    return Boundary(
        float(dose[safe - 1]) if safe else NAN,
        float(dose[np.argmax(outside)]) if outside.any() else math.inf,
        *_ends(np.abs(means) > margin, dose, level),
        NAN if first is None else float(dose[first]),
        *_ends(np.abs(means) - reach * spreads > margin, dose, level),
        "none" if shown is None else "higher" if d[shown].mean() > 0 else "lower",
        _note(d, dose, beyond, first, (float(wide.low[-1]), float(wide.high[-1]))),
    )


def dose_boundary(
    scores: pd.DataFrame,
    budgets: Mapping[str, float],
    *,
    margins: Mapping[str, float],
    control: Mapping[str, float] | None = None,
    baseline: str = "baseline",
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    least_pairs: float = LEAST_PAIRS,
) -> pd.DataFrame:
    """Boundary of a ladder of edits and of its controls, for every metric with a margin, over all prompts and
    within each task.

    Args:
        scores: Long table as for `effects`.
        budgets: Arm of the edit -> dose, for example `{"sink-1": 1, "sink-5": 5}`.
        margins: Metric -> margin in the metric's units; metrics without one have no boundary.
        control: Arm of the control -> dose.
        baseline: The arm all are compared with.
        level: Confidence level.
        draws: Bootstrap samples.
        seed: Key of the bootstrap.
        least_pairs: Share of units that must have a score at every dose.

    Returns:
        Columns `BOUNDARY_COLUMNS`; `series` is "edit" or "control".

    Raises:
        UsageError: An unknown arm or metric, no margin, two arms with the same dose.
        NonFiniteError: Too few units are complete in every row.
    """
    table = read_scores(scores)
    if not margins:
        raise UsageError(
            'A boundary is where an effect leaves its margin: expected margins such as {"clip_t": 0.01}, got '
            "none."
        )
    series = {"edit": dict(budgets)} | ({} if control is None else {"control": dict(control)})
    check_names("metric", tuple(margins), table.metrics)
    check_names("arm", (baseline, *(arm for doses in series.values() for arm in doses)), table.arms)
    gate = Gate(least_pairs)
    rows = [
        _row(table, metric, float(margin), task, name, doses, baseline, level, draws, seed, gate)
        for metric, margin in margins.items()
        for task in ["all", *np.unique(table.task).tolist()]
        for name, doses in series.items()
    ]
    gate.close()
    return pd.DataFrame(rows, columns=list(BOUNDARY_COLUMNS))


def _row(
    table: Scores,
    metric: str,
    margin: float,
    task: str,
    name: str,
    doses: dict[str, float],
    baseline: str,
    level: float,
    draws: int,
    seed: int,
    gate: Gate,
) -> dict[str, Any]:
    arms = tuple(sorted(doses, key=lambda arm: doses[arm]))
    case, refused = complete(table, metric, (baseline, *arms), task), ""
    if task == "all":
        what, scored = f"Boundary, metric {metric}", table.scored(metric, (baseline, *arms))
        case, refused = gate.admit(case, what=what, scored=scored)
    if len(case.prompts) < 2:
        reason = refused or f"{len(case.prompts)} prompts: nothing to test"
        found = Boundary(NAN, NAN, NAN, NAN, NAN, NAN, NAN, "none", reason)
    else:
        rng = keyed_generator(seed, "bootstrap", *case.prompts)
        d = case.values[1:] - case.values[0]
        dose = [doses[arm] for arm in arms]
        seeds = case.seeds if table.is_binary(metric) else None
        found = find_boundary(d, dose, margin, level=level, draws=draws, rng=rng, seeds=seeds)
    notes = [found.note] if found.note else []
    if case.missing:
        notes.append(f"{case.missing} of {case.n_units + case.missing} units missing ({case.reasons})")
    return {
        **{"metric": metric, "task": task, "series": name, "margin": margin, "level": level},
        **found._asdict(),
        "doses": ", ".join(f"{doses[arm]:g}" for arm in arms),
        **{"n_prompts": len(case.prompts), "n_units": case.n_units, "missing_units": case.missing},
        "note": "; ".join(notes),
    }


def _ends(left: np.ndarray, dose: Floats, level: float) -> tuple[float, float]:
    """Percentiles over resamples of the first dose at which `left` `[dose, draw]` holds."""
    first = np.sort(np.where(left.any(axis=0), dose[left.argmax(axis=0)], np.inf))
    tail = (1 - level) / 2
    low, high = math.floor(tail * first.size), math.ceil((1 - tail) * first.size) - 1
    return float(first[low]), float(first[high])


def _note(d: Floats, dose: Floats, beyond: np.ndarray, first: int | None, last: tuple[float, float]) -> str:
    notes = []
    if first is None:
        notes.append(
            f"not reached: at the largest dose {dose[-1]:g} the effect is {d[-1].mean():.4g} "
            f"[{last[0]:.4g}, {last[1]:.4g}]"
        )
    elif not beyond[first:].all():
        back = dose[first:][~beyond[first:]]
        notes.append(f"not steady: dose {', '.join(f'{b:g}' for b in back)} is not beyond the margin")
    if d.shape[1] < 10:
        notes.append(f"{d.shape[1]} prompts only: too few to trust the interval")
    return "; ".join(notes)
