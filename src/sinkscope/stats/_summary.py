"""One sample of prompt-level numbers in, its summary out; many samples at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ._bootstrap import Floats, Interval, bca_interval, keyed_generator
from ._multiplicity import holm
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


def summarise(samples: Sequence[Sample], *, level: float, draws: int, seed: int) -> list[Summary]:
    """Summarise every sample; those with the same prompts share their bootstrap draws (keyed by seed and
    prompts).
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.prompts].append(index)
    out: list[Summary] = [Summary(NAN, NAN, NAN, (NAN, NAN), (NAN, NAN), NAN, NAN)] * len(samples)
    for prompts, members in groups.items():
        if len(prompts) < 2:
            for index in members:
                value = samples[index].values
                out[index] = out[index]._replace(mean=float(value[0]) if value.size else NAN)
            continue
        stack = np.stack([samples[index].values for index in members])
        rng = keyed_generator(seed, "bootstrap", *prompts)
        wide, narrow = bca_interval(stack, levels=(level, 0.90), draws=draws, rng=rng)
        columns = (
            stack.mean(axis=-1),
            stack.std(axis=-1, ddof=1),
            cohen_dz(stack),
            paired_t(stack),
            wilcoxon(stack),
        )
        for row, index in enumerate(members):
            mean, sd, dz, p_t, p_w = (float(column[row]) for column in columns)
            out[index] = Summary(mean, sd, dz, _pair(wide, row), _pair(narrow, row), p_t, p_w)
    return out


def adjust(p: Sequence[float], family: Iterable[object]) -> tuple[list[float], list[int]]:
    """Holm within each family; tests that could not be done (NaN) are in no family.

    Args:
        p: Raw p-values.
        family: The family of each, any hashable.

    Returns:
        Adjusted p-values (NaN where `p` is) and the size of each one's family (0 where `p` is NaN).
    """
    members: dict[object, list[int]] = defaultdict(list)
    for index, key in enumerate(family):
        if not np.isnan(p[index]):
            members[key].append(index)
    adjusted, size = [NAN] * len(p), [0] * len(p)
    for rows in members.values():
        for index, value in zip(rows, holm([p[index] for index in rows]), strict=True):
            adjusted[index], size[index] = float(value), len(rows)
    return adjusted, size


def _pair(interval: Interval, row: int) -> tuple[float, float]:
    return float(interval.low[row]), float(interval.high[row])
