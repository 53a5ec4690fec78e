"""Runs of specimens, built and recorded once for all tests of a process, and attention written out."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sinkscope.models import AttentionCall, Run, Session

from .specimen import Specimen

_built: dict[str, Any] = {}
_recorded: dict[str, list[AttentionCall]] = {}
_plain: dict[str, Tensor] = {}


def built(specimen: Specimen) -> Any:
    """The specimen's model; tests share it and leave it as they found it."""
    if specimen.name not in _built:
        _built[specimen.name] = specimen.build()
    return _built[specimen.name]


def plain(specimen: Specimen) -> Tensor:
    """Result of a run without a session."""
    if specimen.name not in _plain:
        _plain[specimen.name] = specimen.run(built(specimen))
    return _plain[specimen.name]


def record(specimen: Specimen, **changes: Any) -> list[AttentionCall]:
    """Calls of a run; the same run is not made twice."""
    key = f"{specimen.name} {changes}"
    if key not in _recorded:
        _recorded[key] = record_anew(specimen, **changes)
    return _recorded[key]


def record_anew(specimen: Specimen, **changes: Any) -> list[AttentionCall]:
    """Calls of a run."""
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Run) -> Tensor:
        calls.append(call)
        return run(call)

    with Session(built(specimen), handler, sites=specimen.sites):
        specimen.run(built(specimen), **changes)
    return calls


def having(*names: str) -> Any:
    """Mark of tests that need classes which the oldest supported versions of diffusers lack."""
    missing = sorted(set(names) - set(dir(diffusers)))
    return pytest.mark.skipif(bool(missing), reason=f"diffusers {diffusers.__version__} has no {missing}")


def short(specimen: Specimen) -> dict[str, Any]:
    """Changes that make a run of one step, where there are steps."""
    return dict(specimen.brief) if specimen.whole else {}


def explicit(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Weights `[row, head, query, key]` and output of a call in float64, written out step by step. Queries
    that may attend to nothing have no weights and zeros as their output."""
    q, k, v = (part.double() for part in (call.q, call.k, call.v))
    if k.shape[1] != q.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if call.scale is None else call.scale)
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    if call.is_causal:
        logits = logits.masked_fill(~torch.ones_like(logits, dtype=torch.bool).tril(), -torch.inf)
    if call.mask is not None and call.mask.dtype == torch.bool:
        logits = logits.masked_fill(~call.mask, -torch.inf)
    elif call.mask is not None:
        logits = logits + call.mask.double()
    weights = torch.softmax(logits, -1).nan_to_num(0.0)
    return weights, weights @ v
