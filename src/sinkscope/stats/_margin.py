"""A margin measured from the noise between seeds of the same run, instead of declared.

The margin of `calibrated_margin` is the mean absolute difference of the score between two images of the same
prompt that differ in their seed alone: "the edit moves the mean score by less than another seed moves the
score of one image". Scaling an equivalence margin by the variability of the reference is the practice of
reference-scaled average bioequivalence (Haidar et al. 2008, Pharm. Res. 25:237; its margin of 0.89 standard
deviations within subjects is 0.79 of a mean absolute difference); Lakens (2017) and Wellek (2010) discuss how
margins are justified.

What keeps it honest:

- Only arms without any edit enter: the baseline, and arms that repeat it with other seeds. Treated arms and
  controls are never read, so no result can widen its own margin.
- The noise is an estimate. By default the margin is the low end of its 90 % interval over prompts, so that an
  overestimated noise does not buy equivalence.
- A 0/1 score is refused: its seed noise is the share of prompts that flip, which is no small difference of an
  accuracy. Bioequivalence guards against this with a limit on the point estimate; here the margin must be
  declared.
- It is a wide margin by construction, and says so: it is about one image, while an effect is a mean over
  prompts. `factor` makes it narrower; choose it before looking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from sinkscope.errors import UsageError

from ._bootstrap import Floats, check_options, keyed_generator, percentile_ends, resamples
from ._intervals import mean_interval
from ._scores import Scores, check_names, read_scores

SEED: Literal["seed"] = "seed"
"""In `margins={"clip_t": "seed"}`: measure the margin of this metric."""

LEAST_PROMPTS = 10


class Margin(NamedTuple):
    """A margin and the noise it comes from, in the metric's units."""

    value: float
    """The margin: `factor` times the low end (or, if asked for, the estimate) of the noise."""
    noise: float
    """Mean (or quantile) over prompts of the absolute difference between two seeds."""
    low: float
    high: float
    """90 % bootstrap interval of `noise` over prompts."""
    n_prompts: int
    n_pairs: int
    """Pairs of images with the same prompt and different seeds."""


def calibrated_margin(
    scores: pd.DataFrame,
    metric: str,
    *,
    baseline: str = "baseline",
    reseeded: Sequence[str] = (),
    quantile: float | None = None,
    factor: float = 1.0,
    conservative: bool = True,
    draws: int = 10_000,
    seed: int = 0,
) -> Margin:
    """Measure the margin of a metric from seed-to-seed differences of arms without edits.

    Per prompt, the absolute difference of the score is averaged over all pairs of the baseline's seeds, and
    over all units of each `reseeded` arm against the same unit of the baseline. For a distance to the
    baseline's image, which scores the baseline itself the same everywhere, only the latter say anything.

    Args:
        scores: Long table as for `effects`.
        metric: Which one.
        baseline: The arm without edits.
        reseeded: Arms without edits that repeat the baseline with other seeds.
        quantile: This quantile over prompts instead of their mean, for example 0.5.
        factor: The margin in units of the noise.
        conservative: Take the low end of the noise's 90 % interval; False takes the estimate.
        draws: Bootstrap samples of prompts.
        seed: Key of the bootstrap.

    Raises:
        UsageError: Too few prompts with two seeds, a 0/1 score, no noise at all, an unknown arm or metric.
    """
    table = read_scores(scores)
    check_names("metric", (metric,), table.metrics)
    check_names("arm", (baseline, *reseeded), table.arms)
    if not (np.isfinite(factor) and factor > 0):
        raise UsageError(f"Got factor={factor}, expected a positive number.")
    if quantile is not None and not 0 < quantile < 1:
        raise UsageError(f"Got quantile={quantile}, expected a number between 0 and 1.")
    check_options((0.90,), draws)
    noise, pairs, prompts = _noise(table, metric, baseline, reseeded)
    if noise.size < LEAST_PROMPTS:
        raise UsageError(
            f"Margin of {metric!r} from seeds: {noise.size} prompts have two images without edits that "
            f"differ in the seed and can be compared, expected at least {LEAST_PROMPTS}. Generate two or "
            "more seeds per prompt (for a distance to the baseline's image: an arm without edits and with "
            "other seeds), or declare the margin as a number."
        )
    rng = keyed_generator(seed, "seed-margin", metric, *prompts)
    if quantile is None:
        ends = mean_interval(noise, method="bca", levels=(0.90,), draws=draws, rng=rng)[0]
        estimate, low, high = float(noise.mean()), float(ends.low), float(ends.high)
    else:
        drawn = np.concatenate(
            [np.quantile(noise[index], quantile, axis=1) for index in resamples(noise.size, draws, rng)]
        )
        estimate = float(np.quantile(noise, quantile))
        low, high = (float(end[0]) for end in percentile_ends(drawn[None], (0.90,))[0])
    value = factor * (low if conservative else estimate)
    if not value > 0:
        raise UsageError(
            f"Margin of {metric!r} from seeds: the noise between seeds is {estimate:g} (90 % interval "
            f"{low:g} to {high:g}), expected more than zero. Declare the margin as a number."
        )
    return Margin(value, estimate, low, high, int(noise.size), pairs)


def resolve_margins(
    scores: pd.DataFrame,
    margins: Mapping[str, float | Literal["seed"]],
    seed_arms: Sequence[str],
    *,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """Metric -> margin as a number: the declared one, or for "seed" the measured one."""
    return {
        metric: calibrated_margin(scores, metric, reseeded=seed_arms, draws=draws, seed=seed).value
        if margin == SEED
        else float(margin)
        for metric, margin in margins.items()
    }


def _noise(
    table: Scores, metric: str, baseline: str, reseeded: Sequence[str]
) -> tuple[Floats, int, tuple[str, ...]]:
    """Mean absolute difference per prompt, the number of pairs, and the prompts."""
    nothing = np.full(table.units.size, np.nan)
    base = table.values.get((metric, baseline), nothing)
    others = [table.values.get((metric, arm), nothing) for arm in reseeded]
    _refuse_two_values(metric, [base, *others])
    known = base[np.isfinite(base)]
    is_distance = known.size > 0 and known.min() == known.max()
    sums: dict[str, list[float]] = {}
    for prompt in np.unique(table.prompt):
        rows = np.flatnonzero(table.prompt == prompt)
        own = base[rows][np.isfinite(base[rows])]
        gaps = [] if is_distance else [abs(a - b) for i, a in enumerate(own) for b in own[i + 1 :]]
        gaps += [abs(gap) for other in others for gap in (other - base)[rows] if np.isfinite(gap)]
        if gaps:
            sums[str(prompt)] = gaps
    noise = np.array([np.mean(gaps) for gaps in sums.values()], dtype=np.float64)
    return noise, sum(map(len, sums.values())), tuple(sums)


def _refuse_two_values(metric: str, columns: list[Floats]) -> None:
    values = np.unique(np.concatenate([column[np.isfinite(column)] for column in columns]))
    if values.size == 2:
        raise UsageError(
            f"Margin of {metric!r} from seeds: the score takes two values only ({values[0]:g}, "
            f"{values[1]:g}). The noise between seeds of such a score is the share of prompts that flip, "
            "which is no small difference. Declare the margin as a number, for example 0.05."
        )
