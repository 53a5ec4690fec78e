"""Bootstrap intervals of a mean: bias-corrected and accelerated (BCa; Efron 1987), resampling prompts.

The draws are keyed, not global: the caller passes a Generator made by `keyed_generator`, and every row of a
stack sees the same resampled prompts, so a row's interval does not depend on which other rows are analysed
with it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from sinkscope.errors import NonFiniteError, UsageError

Floats = NDArray[np.float64]

_BLOCK = 100_000
"""Resampled values of one row held at once; a hundred rows then take 80 MB."""


class Interval(NamedTuple):
    """An interval per row; both ends equal where all values of the row are equal."""

    low: Floats
    high: Floats


def keyed_generator(seed: int, *key: object) -> np.random.Generator:
    """Return a generator that depends on `seed` and on the words of `key` alone.

    Args:
        seed: Any non-negative integer.
        *key: What the draws are for, for example the prompt ids; compared through `str`.
    """
    if seed < 0:
        raise UsageError(f"Got seed={seed}, expected a non-negative integer.")
    digest = hashlib.blake2b("\x1f".join(str(part) for part in key).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def checked(values: ArrayLike, *, least: int = 2) -> Floats:
    """Return `values` as float64 `[..., n]`, refusing NaN, infinity and fewer than `least` values."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] < least:
        raise UsageError(
            f"Got an array of shape {array.shape}, expected at least {least} values on the last axis."
        )
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise NonFiniteError(
            f"Got {bad} NaN or infinite of {array.size} values. Score them again or leave the pairs out."
        )
    return array


def is_constant(values: Floats) -> NDArray[np.bool_]:
    """Say for each row `[...]` of `values` `[..., n]` whether all its values are equal up to float64
    rounding.
    """
    scale = np.abs(values).max(axis=-1)
    spread = values.max(axis=-1) - values.min(axis=-1)
    return np.asarray(spread <= 1e-12 * scale)


def bca_interval(
    values: ArrayLike,
    *,
    levels: Sequence[float] = (0.95,),
    draws: int = 10_000,
    rng: np.random.Generator,
) -> list[Interval]:
    """BCa bootstrap intervals of the mean over the last axis, one `Interval` per level from the same draws.

    Args:
        values: `[..., n]`, one value per prompt; rows are resampled together.
        levels: Confidence levels in (0, 1).
        draws: Bootstrap samples.
        rng: From `keyed_generator`; consumed.

    Returns:
        Per level, ends of shape `[...]`. Rows whose values are all equal give an interval of zero width (the
        bootstrap cannot see variation that did not occur); rows where BCa is undefined give NaN.

    Raises:
        UsageError: Fewer than two values, a level outside (0, 1), or fewer than 100 draws.
        NonFiniteError: NaN or infinity in `values`.
    """
    array = checked(values)
    if draws < 100:
        raise UsageError(f"Got draws={draws}, expected at least 100 (10000 for results to be reported).")
    if bad := [level for level in levels if not 0 < level < 1]:
        raise UsageError(f"Got confidence level {bad[0]}, expected a number between 0 and 1 such as 0.95.")
    rows = array.reshape(-1, array.shape[-1])
    mean = rows.mean(axis=-1)
    ends = np.stack([np.stack([mean, mean])] * len(levels))
    varied = ~is_constant(rows)
    if varied.any():
        ends[:, :, varied] = _bca(rows[varied], levels, draws, rng)
    shape = array.shape[:-1]
    return [Interval(low.reshape(shape), high.reshape(shape)) for low, high in ends]


def _bca(rows: Floats, levels: Sequence[float], draws: int, rng: np.random.Generator) -> Floats:
    # The batch may depend on n only: batches cut the stream of draws, and a row must not depend on its
    # neighbours.
    batch = max(1, min(draws, _BLOCK // rows.shape[-1]))
    result: Any = None
    ends = []
    with warnings.catch_warnings():
        # Constant rows were taken out above; what is left of this warning shows as NaN ends.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        for level in levels:
            result = bootstrap(
                (rows,),
                _mean,
                n_resamples=0 if result is not None else draws,
                batch=batch,
                axis=-1,
                confidence_level=level,
                method="BCa",
                bootstrap_result=result,
                rng=rng,
            )
            ends.append(np.stack([result.confidence_interval.low, result.confidence_interval.high]))
    return np.stack(ends)


def _mean(values: Floats, axis: int) -> Floats:
    # NumPy's order of summation follows the memory layout, which follows the number of rows; fix it.
    return np.asarray(np.ascontiguousarray(values).mean(axis=axis))
