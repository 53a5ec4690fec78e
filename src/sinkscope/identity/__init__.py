"""Which tokens the sinks are, how long they stay, how far sets of sinks agree, and who takes over their mass.

Tables in, tables out: every function takes what `Run` or `Observation` hand out as DataFrames and gives back
a DataFrame; no models, no files, no torch. A share is computed within a unit, averaged over the units of a
prompt, then over prompts; intervals are BCa bootstrap intervals over prompts (`sinkscope.stats`).
"""

from __future__ import annotations

from ._chance import chance_jaccard, chance_shared
from ._compensation import compensation
from ._kinds import CLASSES, classes, kinds
from ._overlap import overlap, overlap_pairs
from ._persistence import persistence
from ._shares import identity
from ._takers import takers

__all__ = [
    "CLASSES",
    "chance_jaccard",
    "chance_shared",
    "classes",
    "compensation",
    "identity",
    "kinds",
    "overlap",
    "overlap_pairs",
    "persistence",
    "takers",
]
