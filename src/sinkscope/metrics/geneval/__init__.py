"""GenEval's own correctness (Ghosh et al. 2023): what a detector and a colour classifier find in an image,
judged by the clauses of its prompt.

`_judge` holds the rules and knows no network; `_detector`, `_instances` and `_resize` are the detector;
`_colors` classifies colours; `_metric` puts them together.
"""

from __future__ import annotations

from ._judge import COLORS, Found, Judgement, Rules, judge, keep, relations
from ._metric import Geneval
from ._names import CLASSES

__all__ = [
    "CLASSES",
    "COLORS",
    "Found",
    "Geneval",
    "Judgement",
    "Rules",
    "judge",
    "keep",
    "relations",
]
