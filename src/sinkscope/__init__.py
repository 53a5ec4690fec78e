"""Measure attention sinks in diffusion transformers, remove them while generating, and say what that changed.

Names are resolved on first use, so that `import sinkscope` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sinkscope._version import __version__

_HOME = {
    "Edit": "sinkscope.models",
    "load": "sinkscope.models",
    "sites": "sinkscope.models",
    "observe": "sinkscope.models",
    "intervene": "sinkscope.models",
    "TopMass": "sinkscope.attention",
    "BottomMass": "sinkscope.attention",
    "NextMass": "sinkscope.attention",
    "RandomKeys": "sinkscope.attention",
    "MassAbove": "sinkscope.attention",
    "Keys": "sinkscope.attention",
    "TopConcentration": "sinkscope.attention",
    "RandomQueries": "sinkscope.attention",
    "ReplaceOutput": "sinkscope.attention",
    "Segment": "sinkscope.attention",
    "Frozen": "sinkscope.attention",
    "Mask": "sinkscope.attention",
    "ScaleLogit": "sinkscope.attention",
    "ScaleProbability": "sinkscope.attention",
    "ReplaceValue": "sinkscope.attention",
    "Arm": "sinkscope.study",
    "Study": "sinkscope.study",
    "Run": "sinkscope.study",
    "run": "sinkscope.study",
}
_ROOMS = (
    "attention",
    "models",
    "shapes",
    "prompts",
    "metrics",
    "stats",
    "identity",
    "study",
    "recipes",
    "report",
    "errors",
)

__all__ = ["__version__", *_HOME, *_ROOMS]

if TYPE_CHECKING:
    from sinkscope.attention import (
        BottomMass,
        Frozen,
        Keys,
        Mask,
        MassAbove,
        NextMass,
        RandomKeys,
        RandomQueries,
        ReplaceOutput,
        ReplaceValue,
        ScaleLogit,
        ScaleProbability,
        Segment,
        TopConcentration,
        TopMass,
    )
    from sinkscope.models import Edit, intervene, load, observe, sites
    from sinkscope.study import Arm, Run, Study, run


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"sinkscope.{name}")
    else:
        raise AttributeError(f"module 'sinkscope' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
