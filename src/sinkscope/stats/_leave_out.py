"""Does one task carry the result? Every contrast again with one task left out at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from sinkscope.errors import UsageError

from ._effects import Contrast, Family, effects
from ._margin import SEED, resolve_margins
from ._scores import LEAST_PAIRS, read_scores

LEAVE_OUT_COLUMNS = tuple(
    (
        "metric contrast kind arm reference left_out n_prompts effect effect_all ci_low ci_high level p_t "
        "p_holm verdict verdict_all changes note"
    ).split()
)


def leave_one_task_out(
    scores: pd.DataFrame,
    *,
    contrasts: Sequence[Contrast],
    metrics: Sequence[str] | None = None,
    margins: Mapping[str, float | Literal["seed"]] | None = None,
    seed_arms: Sequence[str] = (),
    identical: Collection[tuple[str, str]] = (),
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
    family: Family = "all",
    least_pairs: float = LEAST_PAIRS,
) -> pd.DataFrame:
    """The effects over all prompts, without one task at a time.

    Arguments and the rule are those of `effects`; a margin "seed" is measured once, on the whole table.

    Returns:
        Columns `LEAVE_OUT_COLUMNS`; `effect_all` and `verdict_all` are those of the whole table, `changes`
        says whether the verdict differs from it (or "different" points the other way).

    Raises:
        UsageError: Fewer than two tasks, and whatever `effects` refuses.
        NonFiniteError: Too few complete pairs.
    """
    tasks = np.unique(read_scores(scores).task).tolist()
    if len(tasks) < 2:
        raise UsageError(f"Got {len(tasks)} task ({tasks[0]!r}), expected at least two to leave one out.")
    to_measure = {metric: value for metric, value in (margins or {}).items() if value == SEED}
    measured = resolve_margins(scores, to_measure, seed_arms, draws=draws, seed=seed)

    def analyse(part: pd.DataFrame) -> pd.DataFrame:
        return effects(
            part,
            contrasts=contrasts,
            metrics=metrics,
            margins=margins,
            seed_arms=seed_arms,
            measured=measured,
            identical=identical,
            by_task=False,
            level=level,
            draws=draws,
            seed=seed,
            family=family,
            least_pairs=least_pairs,
        )

    whole = analyse(scores)
    frames = []
    for task in tasks:
        part = analyse(scores[scores["task"].astype(str) != task])
        part = part.assign(left_out=task, effect_all=whole["effect"], verdict_all=whole["verdict"])
        turned = (part["verdict"] == "different") & (part["direction"] != whole["direction"])
        frames.append(part.assign(changes=(part["verdict"] != part["verdict_all"]) | turned))
    out = pd.concat(frames, ignore_index=True)
    return out.sort_values(["metric", "contrast"], kind="stable", ignore_index=True)[list(LEAVE_OUT_COLUMNS)]
