"""The backends behind `measure`, by name.

A backend takes `(operands, weights, want)` and returns `Raw`; `weights` is [row or 1, head or 1, group,
query]. A faster one registers itself with a rule that says for which tensors it may be picked; the last
registered that suits wins, unless it refuses the call: then the next one runs, and the reason is said once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkscope.errors import UsageError, unknown

from . import _flex, _triton, reference
from ._operands import Operands
from ._rowblock import Raw, rowblock

Backend = Callable[[Operands, Tensor, Collection[str]], Raw]
Suits = Callable[[torch.device, torch.dtype], bool]
Refuses = Callable[[Operands], str | None]


@dataclass(frozen=True)
class _Entry:
    run: Backend
    suits: Suits
    refuses: Refuses


_BACKENDS: dict[str, _Entry] = {}
_SAID: set[tuple[str, str]] = set()
_NAMED: list[str] = []
"""Backends that open `use_backend` blocks ask for; the innermost one counts, in every thread."""


def _never(ops: Operands) -> None:
    return None


def register_backend(name: str, run: Backend, *, suits: Suits, refuses: Refuses = _never) -> None:
    """Add a backend or replace the one of the same name.

    Args:
        name: How `measure(..., backend=name)` asks for it.
        run: Called as `run(operands, weights, want)`.
        suits: Whether it may be picked without being asked for, given device and dtype of q.
        refuses: Why it cannot run a call, in words; None where it can.
    """
    _BACKENDS.pop(name, None)
    _BACKENDS[name] = _Entry(run, suits, refuses)


def backends() -> list[str]:
    """Names of all registered backends."""
    return list(_BACKENDS)


def added_backends() -> list[str]:
    """Names of backends that did not come with sinkscope: they exist in this process only."""
    own = "sinkscope."
    return [
        name for name, entry in _BACKENDS.items() if not getattr(entry.run, "__module__", "").startswith(own)
    ]


def named_backend() -> str | None:
    """What the innermost open `use_backend` block asks for."""
    return _NAMED[-1] if _NAMED else None


@contextmanager
def use_backend(name: str | None, device: torch.device | str | None = None) -> Iterator[None]:
    """Measure with the named backend only, in the whole process, as long as the block is open.

    Edits of softmax weights exist in the row-block pass alone and are made there all the same.

    Args:
        name: One of `backends()`; None leaves the choice to each call.
        device: Where the model runs, if known: a backend that cannot run there is refused at once, not in
            the first attention call.

    Raises:
        UsageError: There is no such backend, or it cannot run on the device.
    """
    if name is None:
        yield
        return
    if name not in _BACKENDS:
        raise unknown("attention backend", name, _BACKENDS)
    if device is not None:
        _check_device(name, torch.device(device))
    _NAMED.append(name)
    try:
        yield
    finally:
        _NAMED.remove(name)


def _check_device(name: str, device: torch.device) -> None:
    try:
        sample = torch.zeros(1, 1, 16, 16, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises both where a device is not there
        raise UsageError(f"Device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    pick_backend(name, Operands(sample, sample, sample))


def pick_backend(name: str | None, ops: Operands) -> Backend:
    """The named backend, or the last registered one that suits the call and does not refuse it.

    Raises:
        UsageError: The named backend does not exist or cannot run this call; the message says why.
    """
    name = name or named_backend()
    if name is not None:
        if name not in _BACKENDS:
            raise unknown("attention backend", name, _BACKENDS)
        why = _BACKENDS[name].refuses(ops)
        if why is not None:
            raise UsageError(
                f"Attention backend {name!r} cannot run this call: {why}. "
                "Leave `backend` out, and one that can is picked."
            )
        return _BACKENDS[name].run
    return next(run for name in reversed(_BACKENDS) if (run := _suiting(name, ops)) is not None)


def _suiting(name: str, ops: Operands) -> Backend | None:
    entry = _BACKENDS[name]
    if not entry.suits(ops.q.device, ops.q.dtype):
        return None
    why = entry.refuses(ops)
    if why is None:
        return entry.run
    if (name, why) not in _SAID:
        _SAID.add((name, why))
        warnings.warn(
            f"Attention backend {name!r} does not run here: {why}. The next one measures instead; "
            "its numbers are as exact.",
            stacklevel=4,
        )
    return None


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
register_backend("flex", _flex.run, suits=lambda device, dtype: False, refuses=_flex.refusal)
register_backend(
    "triton",
    _triton.run,
    suits=lambda device, dtype: device.type == "cuda",
    refuses=_triton.refusal,
)
