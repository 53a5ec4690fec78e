"""How many units fit into memory at once, and what an allocation that failed looks like."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

RESERVE = 0.8
"""Share of the free memory that a batch may fill: decoding and fragmentation need the rest."""
LARGEST = 64
"""Beyond this a GPU gains nothing, and a killed run would lose more."""
_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def release() -> None:
    """Give back what a failed attempt left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def probe(peak: Callable[[int], int], free: Callable[[], int], *, units: int, largest: int = LARGEST) -> int:
    """The largest power of two of units that fits, from the peaks of one and of two units.

    Args:
        peak: Generates that many units as they will be later and returns the peak of the memory it needed, in
            bytes above what was taken before.
        free: Bytes that are free before.
        units: How many units the study has: a larger batch would be for nothing.
        largest: Never more than this.

    Returns:
        At least 1. Two units that do not fit give 1; the model's own error comes when one does not.
    """
    limit = min(units, largest)
    available = free()
    one = peak(1)
    if limit < 2 or one > RESERVE * available:
        return 1
    try:
        two = peak(2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        release()
        return 1
    each = max(two - one, 1)
    fits = 1 + int(max(0.0, RESERVE * available - one) // each)
    count = 1
    while count * 2 <= min(fits, limit):
        count *= 2
    return count
