"""Means over prompts with their intervals, for many rows at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sinkscope.identity._origin import Floats
from sinkscope.stats import bca_interval, keyed_generator


def over_prompts(values: Floats, prompts: Sequence[str], level: float | None, draws: int) -> Floats:
    """Mean, low and high `[3, row]` of values `[row, prompt]`.

    The ends are NaN where there are fewer than two prompts or `level` is None. A row that is the same in
    every prompt has an interval of zero width: the bootstrap cannot see variation that did not occur.
    """
    mean = values.mean(axis=1)
    blank = np.full(len(values), np.nan)
    if level is None or values.shape[1] < 2:
        return np.stack([mean, blank, blank])
    rng = keyed_generator(0, "identity", *prompts)
    (found,) = bca_interval(values, levels=(level,), draws=draws, rng=rng)
    return np.stack([mean, found.low, found.high])
