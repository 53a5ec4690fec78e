"""Holm's step-down adjustment (Holm 1979) over a family that the caller declares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sinkscope.errors import NonFiniteError, UsageError


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjust the p-values of one family.

    Args:
        p: `[m]` raw p-values. A test that could not be done has no place in the family: leave it out and say
            so.

    Returns:
        `[m]` adjusted p-values in the given order: `max over ranks <= r of (m - rank) * p`, at most 1.

    Raises:
        NonFiniteError: A NaN among them. It is refused because every way of going on is wrong: keeping it
            inflates the family, dropping it shrinks the family in silence.
        UsageError: A value outside [0, 1], or not one axis.
    """
    raw = np.asarray(p, dtype=np.float64)
    if raw.ndim != 1:
        raise UsageError(f"Got p-values of shape {raw.shape}, expected one axis [m].")
    if np.isnan(raw).any():
        raise NonFiniteError(
            f"Got {int(np.isnan(raw).sum())} NaN of {raw.size} p-values. "
            "Leave tests that could not be done out of the family."
        )
    if ((raw < 0) | (raw > 1)).any():
        raise UsageError(f"Got p-values between {raw.min()} and {raw.max()}, expected [0, 1].")
    order = np.argsort(raw, kind="stable")
    steps = raw[order] * np.arange(raw.size, 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
