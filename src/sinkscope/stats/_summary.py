"""One sample of prompt-level numbers in, its summary out; many samples at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._bootstrap import Floats, Interval, keyed_generator
from ._intervals import Method, mean_interval
from ._multiplicity import benjamini_hochberg, holm
from ._proportions import paired_proportions
from ._signflip import sign_flip
from ._tests import cohen_dz, paired_t, wilcoxon

NAN = float("nan")
AUTO: Literal["auto"] = "auto"
PROPORTIONS = "proportions"
"""Name of the interval for paired proportions in tables."""


class Sample(NamedTuple):
    """Numbers to be tested against zero, one per prompt."""

    values: Floats
    prompts: tuple[str, ...]
    seeds: Floats | None = None
    """For differences of 0/1 scores: how many were averaged in each prompt `[n]`."""
    span: float = 1.0
    """For those: the largest difference there can be, 2 for a difference of differences."""


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
    interval: str = ""
    """How the intervals were made: a `Method` or "proportions"."""


NOTHING = Summary(NAN, NAN, NAN, (NAN, NAN), (NAN, NAN), NAN, NAN, NAN)


def summarise(
    samples: Sequence[Sample],
    *,
    level: float,
    draws: int,
    seed: int,
    interval: Method | Literal["auto"] = AUTO,
) -> list[Summary]:
    """Summarise every sample; those with the same prompts share their bootstrap draws and sign patterns
    (keyed by seed and prompts).

    Args:
        samples: What to summarise.
        level: Confidence level of `ci`.
        draws: Bootstrap draws, sign patterns.
        seed: Key of both.
        interval: "auto": for paired proportions where `seeds` are given, combined for the others.
    """
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.prompts].append(index)
    out: list[Summary] = [NOTHING] * len(samples)
    for prompts, members in groups.items():
        if len(prompts) < 2:
            for index in members:
                value = samples[index].values
                out[index] = NOTHING._replace(mean=float(value[0]) if value.size else NAN)
            continue
        stack = np.stack([samples[index].values for index in members])
        levels = (level, 0.90)
        method: Method = "combined" if interval == AUTO else interval
        flips = [interval == AUTO and samples[index].seeds is not None for index in members]
        ends = np.empty((len(levels), 2, len(members)))
        rest = ~np.array(flips)
        if rest.any():
            rng = keyed_generator(seed, "bootstrap", *prompts)
            ends[..., rest] = mean_interval(stack[rest], method=method, levels=levels, draws=draws, rng=rng)
        for rows in _alike([samples[index] for index in members], np.flatnonzero(flips)):
            first = samples[members[rows[0]]]
            ends[..., rows] = _proportions(stack[rows], first, levels)
        columns = (
            stack.mean(axis=-1),
            stack.std(axis=-1, ddof=1),
            cohen_dz(stack),
            paired_t(stack),
            wilcoxon(stack),
            sign_flip(stack, draws=draws, rng=keyed_generator(seed, "sign-flip", *prompts)),
        )
        for row, index in enumerate(members):
            mean, sd, dz, p_t, p_w, p_s = (float(column[row]) for column in columns)
            wide, narrow = ((float(low), float(high)) for low, high in ends[:, :, row])
            how = PROPORTIONS if flips[row] else method
            out[index] = Summary(mean, sd, dz, wide, narrow, p_t, p_w, p_s, how)
    return out


def _alike(samples: Sequence[Sample], rows: NDArray[np.intp]) -> list[list[int]]:
    """Rows of samples that differ in their values only, so that one call makes their intervals."""
    groups: dict[tuple[float, bytes], list[int]] = defaultdict(list)
    for row in rows.tolist():
        groups[samples[row].span, np.asarray(samples[row].seeds).tobytes()].append(row)
    return list(groups.values())


def _proportions(values: Floats, about: Sample, levels: Sequence[float]) -> list[Interval]:
    """Intervals of 0/1 scores `[row, n]`. A difference of differences is twice the mean of both, as of two
    seeds.
    """
    seeds = np.asarray(about.seeds) * about.span
    found = [paired_proportions(values / about.span, level=level, seeds=seeds) for level in levels]
    return [Interval(about.span * low, about.span * high) for low, high in found]


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
