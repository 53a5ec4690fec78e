"""The table of ratios: how many times as far from the baseline as its control does an edit lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.errors import UsageError

from ._bootstrap import keyed_generator
from ._effects import Contrast
from ._ratio import NAN, Ratio, ratio_of_means
from ._scores import LEAST_PAIRS, Complete, Gate, Scores, check_names, complete, read_scores

RATIO_COLUMNS = tuple(
    (
        "metric task contrast arm reference zero n_prompts n_units missing_units mean_arm mean_reference "
        "ratio ci_low ci_high level fieller_low fieller_high note"
    ).split()
)


def ratios(
    scores: pd.DataFrame,
    *,
    contrasts: Sequence[Contrast],
    metrics: Sequence[str],
    zeros: Mapping[str, float] | None = None,
    baseline: str = "baseline",
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    least_pairs: float = LEAST_PAIRS,
) -> pd.DataFrame:
    """Ratio of mean distances from zero, arm over reference, over all prompts and within each task.

    Args:
        scores: Long table as for `effects`.
        contrasts: Pairs to compare, each an edit and its control.
        metrics: Metrics with a natural zero, such as distances to the baseline's image.
        zeros: Metric -> its zero. Left out, it is the score of the baseline, which must then be the same on
            every prompt (a distance of an image to itself: 0 for LPIPS and RMSE, 1 for SSIM).
        baseline: Name of the baseline.
        level: Confidence level.
        draws: Bootstrap samples of prompts.
        seed: Key of the bootstrap.
        least_pairs: Share of units that must have both scores.

    Returns:
        Columns `RATIO_COLUMNS`. `mean_arm` and `mean_reference` are measured from the zero, so SSIM counts as
        SSIM - 1. `ci_*` is the combined interval over prompts, `fieller_*` the cross-check; `note` says why
        one is missing.

    Raises:
        UsageError: A metric without a natural zero, an unknown arm or metric.
        NonFiniteError: Too few complete pairs in every row; where it is in some, their notes say so.
    """
    table = read_scores(scores)
    check_names("metric", tuple(metrics), table.metrics)
    check_names("arm", tuple(arm for c in contrasts for arm in (c.arm, c.reference)), table.arms)
    rows = []
    gate = Gate(least_pairs)
    for metric in metrics:
        zero = _zero(table, metric, dict(zeros or {}), baseline)
        for contrast in contrasts:
            pair = (contrast.arm, contrast.reference)
            for task in ["all", *np.unique(table.task).tolist()]:
                case, refused = complete(table, metric, pair, task), ""
                if task == "all":
                    what = f"Ratio {contrast.name}, metric {metric}"
                    case, refused = gate.admit(case, what=what, scored=table.scored(metric, pair))
                found = _ratio(case, zero, level=level, draws=draws, seed=seed)
                found = found._replace(reason=refused or found.reason)
                rows.append(
                    {"metric": metric, "task": task, "level": level} | _row(contrast, case, zero, found)
                )
    gate.close()
    return pd.DataFrame(rows, columns=list(RATIO_COLUMNS))


def _zero(table: Scores, metric: str, zeros: dict[str, float], baseline: str) -> float:
    if metric in zeros:
        return float(zeros[metric])
    base = table.values.get((metric, baseline))
    known = np.empty(0) if base is None else base[np.isfinite(base)]
    if known.size == 0 or known.min() != known.max():
        raise UsageError(
            f"Metric {metric!r} has no natural zero: the arm {baseline!r} does not score the same on every "
            "prompt, so it is no distance to the baseline's image. Leave the metric out, or give zeros={"
            f"{metric!r}: ...}}."
        )
    return float(known[0])


def _ratio(case: Complete, zero: float, *, level: float, draws: int, seed: int) -> Ratio:
    n = len(case.prompts)
    if n < 2:
        return Ratio(NAN, NAN, NAN, NAN, NAN, f"{n} prompts: no ratio")
    rng = keyed_generator(seed, "ratio", *case.prompts)
    return ratio_of_means(case.values[0] - zero, case.values[1] - zero, level=level, draws=draws, rng=rng)


def _row(contrast: Contrast, case: Complete, zero: float, found: Ratio) -> dict[str, Any]:
    notes = [found.reason] if found.reason else []
    if case.missing:
        notes.append(f"{case.missing} of {case.n_units + case.missing} pairs missing ({case.reasons})")
    if 2 <= len(case.prompts) < 10:
        notes.append(f"{len(case.prompts)} prompts only: too few to trust the interval")
    means = case.values.mean(axis=-1) - zero if case.prompts else (NAN, NAN)
    return {
        **{"contrast": contrast.name, "arm": contrast.arm, "reference": contrast.reference, "zero": zero},
        **{"n_prompts": len(case.prompts), "n_units": case.n_units, "missing_units": case.missing},
        **{"mean_arm": float(means[0]), "mean_reference": float(means[1])},
        **{"ratio": found.ratio, "ci_low": found.low, "ci_high": found.high},
        **{"fieller_low": found.fieller_low, "fieller_high": found.fieller_high},
        "note": "; ".join(notes),
    }
