"""One sample of prompt-level numbers in, its summary out; many samples at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ._bootstrap import Floats, Interval, keyed_generator
from ._intervals import Method, mean_interval
from ._multiplicity import benjamini_hochberg, holm
from ._signflip import sign_flip
from ._tests import cohen_dz, paired_t, wilcoxon

NAN = float("nan")


class Sample(NamedTuple):
    """Numbers to be tested against zero, one per prompt."""

    values: Floats
    prompts: tuple[str, ...]


class Summary(NamedTuple):
    """What is said about one sample; NaN where fewer than two prompts leave nothing to say."""

    mean: float
    sd: float
    dz: float
    ci: tuple[float, float]
    ci90: tuple[float, float]
    p_t: float
    p_wilcoxon: float
    p_signflip: float
    guard90: tuple[float, float] = (NAN, NAN)
    """Studentised 90 % interval that a claim of equivalence must pass too; where it is undefined, since few
    prompts differ, the range of the differences; NaN where it was not asked for."""

    def widest90(self, flips: tuple[float, float] | None) -> tuple[float, float]:
        """The interval that must lie inside a margin: the hull of the 90 % intervals.

        Of skewed effects that lie at the margin, TOST and BCa together accept 7 % instead of 5 % with 32
        prompts, the hull with the studentised interval 5.8 % (docs/power.md). For a 0/1 score the interval
        for paired proportions, `flips`, takes its place.
        """
        low, high = flips if flips else self.guard90
        if np.isnan(low) or np.isnan(high):
            return -np.inf, np.inf
        return min(self.ci90[0], low), max(self.ci90[1], high)


def summarise(
    samples: Sequence[Sample],
    *,
    level: float,
    draws: int,
    seed: int,
    interval: Method = "bca",
    guard: bool = False,
) -> list[Summary]:
    """Summarise every sample; those with the same prompts share their bootstrap draws and sign patterns
    (keyed by seed and prompts). With `guard` the studentised 90 % interval is made too.
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.prompts].append(index)
    out: list[Summary] = [Summary(NAN, NAN, NAN, (NAN, NAN), (NAN, NAN), NAN, NAN, NAN)] * len(samples)
    for prompts, members in groups.items():
        if len(prompts) < 2:
            for index in members:
                value = samples[index].values
                out[index] = out[index]._replace(mean=float(value[0]) if value.size else NAN)
            continue
        stack = np.stack([samples[index].values for index in members])
        rng = keyed_generator(seed, "bootstrap", *prompts)
        wide, narrow = mean_interval(stack, method=interval, levels=(level, 0.90), draws=draws, rng=rng)
        again = keyed_generator(seed, "bootstrap", *prompts)
        (guards,) = (
            mean_interval(stack, method="studentised", levels=(0.90,), draws=draws, rng=again)
            if guard
            else [narrow]
        )
        flips = keyed_generator(seed, "sign-flip", *prompts)
        columns = (
            stack.mean(axis=-1),
            stack.std(axis=-1, ddof=1),
            cohen_dz(stack),
            paired_t(stack),
            wilcoxon(stack),
            sign_flip(stack, draws=draws, rng=flips),
        )
        for row, index in enumerate(members):
            mean, sd, dz, p_t, p_w, p_s = (float(column[row]) for column in columns)
            ends = _pair(wide, row), _pair(narrow, row)
            out[index] = Summary(mean, sd, dz, *ends, p_t, p_w, p_s)
            if guard:
                bounds = _pair(guards, row)
                if np.isnan(bounds).any():
                    # Too few prompts differ for resamples to vary: then every difference must lie inside.
                    bounds = float(stack[row].min()), float(stack[row].max())
                out[index] = out[index]._replace(guard90=bounds)
    return out


class Adjusted(NamedTuple):
    """Adjusted p-values (NaN where the raw one is) and the size of each one's family (0 there)."""

    holm: list[float]
    bh: list[float]
    size: list[int]


def adjust(p: Sequence[float], family: Iterable[object]) -> Adjusted:
    """Holm and Benjamini-Hochberg within each family; tests that could not be done (NaN) are in no family.

    Args:
        p: Raw p-values.
        family: The family of each, any hashable.
    """
    members: dict[object, list[int]] = defaultdict(list)
    for index, key in enumerate(family):
        if not np.isnan(p[index]):
            members[key].append(index)
    out = Adjusted([NAN] * len(p), [NAN] * len(p), [0] * len(p))
    for rows in members.values():
        raw = [p[index] for index in rows]
        for index, strict, loose in zip(rows, holm(raw), benjamini_hochberg(raw), strict=True):
            out.holm[index], out.bh[index], out.size[index] = float(strict), float(loose), len(rows)
    return out


def _pair(interval: Interval, row: int) -> tuple[float, float]:
    return float(interval.low[row]), float(interval.high[row])
