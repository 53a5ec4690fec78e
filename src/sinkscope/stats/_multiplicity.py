"""Adjustment of p-values over a family that the caller declares: Holm (1979) for the chance of any false
claim, Benjamini and Hochberg (1995) for the expected share of false claims.
"""

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
    raw = _checked(p)
    order = np.argsort(raw, kind="stable")
    steps = raw[order] * np.arange(raw.size, 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """Adjust the p-values of one family to control the false discovery rate (Benjamini and Hochberg 1995).

    Holds for independent tests and for positively dependent ones (Benjamini and Yekutieli 2001), such as arms
    that share a baseline. It allows more claims than `holm` and promises less: of the claims made below 0.05,
    5 % may be expected to be false. No verdict uses it.

    Args:
        p: As for `holm`.

    Returns:
        `[m]` adjusted p-values in the given order: `min over ranks >= r of m / rank * p`, at most 1.

    Raises:
        NonFiniteError: A NaN among them.
        UsageError: A value outside [0, 1], or not one axis.
    """
    raw = _checked(p)
    order = np.argsort(raw, kind="stable")[::-1]
    steps = raw[order] * raw.size / np.arange(raw.size, 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.minimum.accumulate(steps), 1.0)
    return adjusted


def _checked(p: ArrayLike) -> NDArray[np.float64]:
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
    return raw
