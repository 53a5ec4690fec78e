"""Does more removal do more? A slope per prompt, then the same paired toolkit (two-stage analysis).

Per prompt, the ordinary least-squares slope of its scores on `log1p(budget)`; the baseline enters at budget
0. The slopes are then one number per prompt, tested against zero, and the edit's minus the control's says
whether the dose response is specific to the edited keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import page_trend_test

from sinkscope.errors import UsageError

from ._bootstrap import Floats, checked
from ._scores import LEAST_PAIRS, Gate, Scores, check_names, complete, read_scores
from ._summary import Sample, adjust, summarise

DOSE_COLUMNS = tuple(
    "metric task series doses n_prompts n_units slope sd dz ci_low ci_high level p_t p_wilcoxon p_holm note "
    "missing_units p_page".split()
)


def prompt_slopes(values: ArrayLike, budgets: ArrayLike) -> Floats:
    """Least-squares slope on `log1p(budget)` for each prompt.

    Args:
        values: Scores `[dose, prompt]`.
        budgets: Keys removed at each dose `[dose]`, in any one unit, 0 for the baseline.

    Returns:
        Slopes `[prompt]`: change of the score per unit of `log1p(budget)`.
    """
    scores, doses = checked(values, least=1), checked(budgets)
    if doses.ndim != 1 or scores.ndim != 2 or scores.shape[0] != doses.size:
        raise UsageError(
            f"Got scores {scores.shape} for budgets {doses.shape}, expected [dose, prompt] and [dose]."
        )
    if (doses < 0).any() or np.unique(doses).size < 2:
        raise UsageError(
            f"Got budgets {doses.tolist()}, expected at least two different ones, none negative."
        )
    x = np.log1p(doses)
    weight = (x - x.mean()) / np.square(x - x.mean()).sum()
    return np.asarray(weight @ scores)


def page_trend(values: ArrayLike) -> float:
    """Two-sided p of Page's test that scores rise or fall with the dose, by ranks within prompts (Page 1963).

    It asks for order only, so one prompt with a large score cannot decide it, and no dose scale is assumed.

    Args:
        values: Scores `[dose, prompt]`, doses ascending.

    Returns:
        Twice the smaller one-sided p, at most 1; NaN with fewer than three doses or two prompts.
    """
    scores = checked(values, least=1)
    if scores.ndim != 2:
        raise UsageError(f"Got scores of shape {scores.shape}, expected [dose, prompt].")
    if len(scores) < 3 or scores.shape[1] < 2:
        return float("nan")
    # Averages over seeds tie up to rounding only; ranks must see them as ties.
    scale = np.abs(scores).max()
    ranked = np.round(scores / (scale or 1.0), 12).T
    p = [float(page_trend_test(side).pvalue) for side in (ranked, -ranked)]
    return min(1.0, 2 * min(p))


def dose_response(
    scores: pd.DataFrame,
    budgets: Mapping[str, float],
    *,
    control: Mapping[str, float] | None = None,
    baseline: str | None = "baseline",
    metrics: Sequence[str] | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    least_pairs: float = LEAST_PAIRS,
) -> pd.DataFrame:
    """Slope of each metric on `log1p(budget)` for an edit, for its control, and edit minus control.

    Args:
        scores: Long table as for `effects`.
        budgets: Arm of the edit -> budget, for example `{"sink-1": 1, "sink-5": 5}`.
        control: Arm of the control -> budget; the same budgets as the edit's, or the slopes do not compare.
        baseline: Arm that enters both series at budget 0; None to leave it out.
        metrics: Which metrics; all in the table by default.
        level: Confidence level of the interval over prompts ("combined", see `mean_interval`).
        draws: Bootstrap samples.
        seed: Key of the bootstrap.
        least_pairs: Share of units that must have a score at every dose.

    Returns:
        Columns `DOSE_COLUMNS`; `series` is "edit", "control" or "edit-control". `p_holm` adjusts the rows
        over all prompts together, and the rows by task together.

    Raises:
        UsageError: An unknown arm or metric, fewer than two budgets, or a control with other budgets than the
            edit.
        NonFiniteError: Too few units are complete for every metric; where it is some, their rows say so.
    """
    table = read_scores(scores)
    chosen = tuple(metrics) if metrics is not None else table.metrics
    series = _series(budgets, control, baseline)
    check_names("metric", chosen, table.metrics)
    check_names("arm", tuple(arm for doses in series.values() for arm in doses), table.arms)
    rows, samples = [], []
    gate = Gate(least_pairs)
    for metric in chosen:
        for task in ["all", *np.unique(table.task).tolist()]:
            for row, sample in _slopes(table, metric, task, series, gate):
                rows.append(row)
                samples.append(sample)
    gate.close()
    found = summarise(samples, level=level, draws=draws, seed=seed)
    adjusted = adjust([summary.p_t for summary in found], [row["task"] == "all" for row in rows])
    for row, summary, p_holm in zip(rows, found, adjusted.holm, strict=True):
        row |= {"slope": summary.mean, "sd": summary.sd, "dz": summary.dz, "level": level, "p_holm": p_holm}
        row |= {
            "ci_low": summary.ci[0],
            "ci_high": summary.ci[1],
            "p_t": summary.p_t,
            "p_wilcoxon": summary.p_wilcoxon,
        }
    return pd.DataFrame(rows, columns=list(DOSE_COLUMNS))


def _series(
    budgets: Mapping[str, float], control: Mapping[str, float] | None, baseline: str | None
) -> dict[str, dict[str, float]]:
    zero = {} if baseline is None else {baseline: 0.0}
    series = {"edit": {**zero, **budgets}}
    if control is not None:
        series["control"] = {**zero, **control}
        if sorted(control.values()) != sorted(budgets.values()):
            raise UsageError(
                f"The control has budgets {sorted(control.values())}, the edit {sorted(budgets.values())}; "
                "expected the same: slopes over different doses do not compare."
            )
    for name, doses in series.items():
        if len(set(doses.values())) < 2:
            raise UsageError(
                f"The {name} has {len(set(doses.values()))} budgets, expected at least two different ones."
            )
    return series


def _slopes(
    table: Scores, metric: str, task: str, series: dict[str, dict[str, float]], gate: Gate
) -> list[tuple[dict[str, Any], Sample]]:
    # One set of complete units for all series, so that edit minus control is the difference of the two rows
    # above it.
    arms = tuple(dict.fromkeys(arm for doses in series.values() for arm in doses))
    case, refused = complete(table, metric, arms, task), ""
    if task == "all":
        what = f"Dose response, metric {metric}"
        case, refused = gate.admit(case, what=what, scored=table.scored(metric, arms))
    if not case.prompts:
        slopes = {name: np.empty(0) for name in series}
    else:
        slopes = {
            name: prompt_slopes(case.values[[arms.index(arm) for arm in doses]], list(doses.values()))
            for name, doses in series.items()
        }
    page = {}
    for name, doses in series.items():
        ascending = sorted(doses, key=lambda arm: doses[arm])
        scores = case.values[[arms.index(arm) for arm in ascending]] if case.prompts else np.empty((0, 0))
        page[name] = page_trend(scores) if scores.size else float("nan")
    if "control" in slopes:
        slopes["edit-control"] = slopes["edit"] - slopes["control"]
    note = []
    if case.missing:
        note.append(f"{case.missing} of {case.n_units + case.missing} units missing ({case.reasons})")
    if refused or len(case.prompts) < 2:
        note.append(refused or f"{len(case.prompts)} prompts: nothing to test")
    about = {
        "metric": metric,
        "task": task,
        "doses": ", ".join(f"{dose:g}" for dose in sorted(set(series["edit"].values()))),
        "n_prompts": len(case.prompts),
        "n_units": case.n_units,
        "missing_units": case.missing,
        "note": "; ".join(note),
    }
    return [
        ({**about, "series": name, "p_page": page.get(name, float("nan"))}, Sample(values, case.prompts))
        for name, values in slopes.items()
    ]
