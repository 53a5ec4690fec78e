"""One key axis for calls whose keys grow, as those of a language model do while it generates, or that leave
out the padding of each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sinkscope.errors import UsageError
from sinkscope.models._seen import Seen
from sinkscope.models._towers import SINK_LOGIT


def common_axis(records: Sequence[Seen]) -> tuple[int, int]:
    """Heads and keys of an array that has room for all records.

    Raises:
        UsageError: their keys are not the same tokens, so no array can hold them.
    """
    sizes = sorted({(seen.values["mass"].shape[1], seen.values["mass"].shape[2]) for seen in records})
    if len(sizes) == 1:
        return sizes[0]
    if len({heads for heads, _ in sizes}) == 1 and _one_begins_the_other(records):
        return sizes[0][0], max(keys for _, keys in sizes)
    found = " and ".join(f"{heads} heads x {keys} keys" for heads, keys in sizes)
    if any(seen.site.kind != "causal" for seen in records) or len({heads for heads, _ in sizes}) > 1:
        raise UsageError(
            f"Got generations of different shape: {found}. Observe them in separate with blocks."
        )
    if not all(_from_the_start(seen) for seen in records) or len({_sinks(seen) for seen in records}) > 1:
        raise UsageError(
            f"Got calls whose keys are not the same tokens: {found} of a cache that drops tokens, or of ids "
            "that nobody knows. Use sinks() and summary(), which name the tokens of every step, or observe "
            "one step at a time with steps=[0]."
        )
    return sizes[0][0], max(keys for _, keys in sizes)


def _one_begins_the_other(records: Sequence[Seen]) -> bool:
    """Whether rows with a call each (Mochi) differ only in how many tokens of their text there are at the
    end."""
    if not all(seen.site.per_row for seen in records):
        return False
    names = ("segment", "position", "image_row", "image_column")
    layouts = set()
    for seen in records:
        tokens = seen.tokens[0].take(np.arange(seen.values["mass"].shape[2]))
        layouts.add(tuple(zip(*(tokens[name] for name in names), strict=True)))
    longest = max(layouts, key=len)
    return all(layout == longest[: len(layout)] for layout in layouts)


def places_on(seen: Seen, count: int) -> Tensor:
    """Where the keys of a record stand on an axis of `count` keys: tokens by their place in the text, keys
    that are no tokens at the end."""
    keys, sinks = seen.values["mass"].shape[2], _sinks(seen)
    return torch.cat([torch.arange(keys - sinks), torch.arange(count - sinks, count)])


def _sinks(seen: Seen) -> int:
    return int(seen.tokens[0].segments().get(SINK_LOGIT, torch.zeros(1)).sum())


def _from_the_start(seen: Seen) -> bool:
    """Whether the first key of every row is the first token of its text."""
    first = [table.take(torch.zeros(1, dtype=torch.long).numpy()) for table in seen.tokens]
    return all(row["position"][0] == 0 and row["segment"][0] != "unknown" for row in first)
