"""A bench with planted truth: models built by hand, about which every right answer is known.

The instrument that judges is the ordinary one: `observe`, `intervene`, `Study`, `run` and the verdicts of
`stats`. The bench only plants keys, declares the right answers, and compares.
"""

from __future__ import annotations

from sinkscope.recipes.planted._bench import bench, build, study, tally
from sinkscope.recipes.planted._cases import CASES
from sinkscope.recipes.planted._model import PlantedTransformer
from sinkscope.recipes.planted._pipeline import PlantedPipeline
from sinkscope.recipes.planted._plant import Plant

__all__ = ["CASES", "Plant", "PlantedPipeline", "PlantedTransformer", "bench", "build", "study", "tally"]
