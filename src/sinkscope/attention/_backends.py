"""The backends behind `measure`, by name.

A backend takes `(operands, weights, want)` and returns `Raw`; `weights` is [row or 1, head or 1, group,
query]. A faster one registers itself with a rule that says for which tensors it may be picked; the last
registered that suits wins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkscope.errors import unknown

from . import reference
from ._operands import Operands
from ._rowblock import Raw, rowblock

Backend = Callable[[Operands, Tensor, Collection[str]], Raw]
Suits = Callable[[torch.device, torch.dtype], bool]


@dataclass(frozen=True)
class _Entry:
    run: Backend
    suits: Suits


_BACKENDS: dict[str, _Entry] = {}


def register_backend(name: str, run: Backend, *, suits: Suits) -> None:
    """Add a backend or replace the one of the same name.

    Args:
        name: How `measure(..., backend=name)` asks for it.
        run: Called as `run(operands, weights, want)`.
        suits: Whether it may be picked without being asked for, given device and dtype of q.
    """
    _BACKENDS.pop(name, None)
    _BACKENDS[name] = _Entry(run, suits)


def backends() -> list[str]:
    """Names of all registered backends."""
    return list(_BACKENDS)


def pick_backend(name: str | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The named backend, or the last registered one that suits device and dtype."""
    if name is not None:
        if name not in _BACKENDS:
            raise unknown("attention backend", name, _BACKENDS)
        return _BACKENDS[name].run
    return next(entry.run for entry in reversed(_BACKENDS.values()) if entry.suits(device, dtype))


def _reference(ops: Operands, weights: Tensor, want: Collection[str]) -> Raw:
    p = reference.softmax(reference.logits(ops))
    heads = ops.q.shape[1]
    out = None if ops.v is None else p @ ops.v.double().repeat_interleave(heads // ops.v.shape[1], dim=1)
    return Raw(
        mass=weights.double().expand(*p.shape[:2], -1, -1) @ p,
        alive=p.sum(-1) > 0,
        lse=reference.logits(ops).logsumexp(-1),
        entropy=-torch.special.xlogy(p, p).sum(-1),
        peak=p.amax(-1),
        output=out if "output" in want else None,
        activation=None if out is None else out.abs().amax((-1, -2)),
    )


register_backend("reference", _reference, suits=lambda device, dtype: False)
register_backend("rowblock", rowblock, suits=lambda device, dtype: True)
