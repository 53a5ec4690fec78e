"""Removing keys by leaving them out, so that a kernel that takes no mask can do the output.

Every head of a call loses the same number of keys, so what is left is rectangular. Which keys stay is worked
out on the device without reading a number there (`nonzero` would wait for it): fit for CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sinkscope.errors import SinkscopeError

from ._actions import Mask
from ._edits import EditedCall, ResolvedEdit
from ._operands import expand_kv
from ._questions import ask

COPY_BYTES = 16 * 2**20
"""Keys and values that stay are copied for as many heads at a time as fit this size."""

Issue = Callable[[EditedCall], Tensor]


def keep_index(chosen: Tensor, count: int) -> Tensor:
    """Positions of the keys that stay, in order.

    Args:
        chosen: Boolean [..., key]: the keys that go.
        count: How many go in every head. A head of which fewer go loses its last keys instead; the caller
            throws its result away.

    Returns:
        Whole numbers [..., key - count].
    """
    keys = chosen.shape[-1]
    place = ((~chosen).long().cumsum(-1) - 1).clamp(0, keys - count)
    place = torch.where(chosen, keys - count, place)  # one more place, for what goes
    kept = place.new_zeros(*chosen.shape[:-1], keys - count + 1)
    return kept.scatter_(-1, place, torch.arange(keys, device=chosen.device).expand_as(place))[..., :-1]


def can_drop(call: EditedCall, edits: tuple[ResolvedEdit, ...]) -> bool:
    """Whether leaving keys out is the whole edit: one removal of a known number of keys, no mask."""
    if len(edits) != 1 or type(edits[0].action) is not Mask or call.v is None:
        return False
    count, plain = edits[0].count, call.mask is None and not call.is_causal and call.softcap is None
    return plain and count is not None and 0 < count < call.k.shape[2]


def without_keys(call: EditedCall, edit: ResolvedEdit, issue: Issue) -> Tensor:
    """Output [row, head, query, dim] of the call without the chosen keys, some heads at a time."""
    assert call.v is not None and edit.count is not None  # `can_drop` has looked
    _check_count(edit.chosen, edit.count)
    kept = keep_index(edit.chosen, edit.count)
    parts = [
        issue(replace(call, q=call.q[:, some], k=k, v=v)) for some, k, v in less_keys(call.k, call.v, kept)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def less_keys(k: Tensor, v: Tensor, kept: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Copies of the keys and values that stay, for as many heads at a time as fit `COPY_BYTES`.

    Args:
        k: [row, kv_head, key, dim].
        v: [row, kv_head, key, dim].
        kept: Positions [row, head, key that stays].
    """
    rows, heads = kept.shape[:2]
    k, v = expand_kv(k, heads), expand_kv(v, heads)
    head_bytes = rows * kept.shape[-1] * (k.shape[-1] * k.element_size() + v.shape[-1] * v.element_size())
    step = max(1, min(heads, COPY_BYTES // head_bytes))
    for head in range(0, heads, step):
        some = slice(head, head + step)
        yield some, take_keys(k[:, some], kept[:, some]), take_keys(v[:, some], kept[:, some])


def take_keys(t: Tensor, index: Tensor) -> Tensor:
    """Rows of t [row, head, key, dim] at index [row, head, n]."""
    return t.gather(2, index[..., None].expand(*index.shape, t.shape[-1]))


def _check_count(chosen: Tensor, count: int) -> None:
    """Nobody may say that a selector takes `count` keys when it takes another number."""

    def check(wrong: list[float]) -> None:
        if wrong[0]:
            raise SinkscopeError(
                f"An edit that removes {count} keys of every head got {int(wrong[0])} heads with another "
                "number of chosen keys. Leave `count` out of ResolvedEdit."
            )

    found = chosen.sum(-1)
    ask(((found != count) & (found != 0)).sum(), check)
