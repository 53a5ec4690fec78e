"""Paired numbers in, effects and verdicts out (NumPy, SciPy and pandas only; no torch, no models, no files).

What this room guarantees:

- The prompt is what is counted: seeds are averaged within a prompt first, so `n` is the number of prompts.
- Nothing is dropped in silence: a missing pair is counted in the note, and an analysis with too many gaps is
  refused.
- "No difference" is only ever said after a test against a declared margin; an interval that contains zero is
  not enough.
- The same scores and the same seed give the same numbers, whatever other arms, metrics or tasks are in the
  table.
"""

from __future__ import annotations

from ._bootstrap import Interval, bca_interval, keyed_generator
from ._dose import dose_response, prompt_slopes
from ._effects import Contrast, effects
from ._multiplicity import holm
from ._tests import cluster_means, cohen_dz, paired_t, tost, wilcoxon
from ._verdict import Verdict, verdict

__all__ = [
    "Contrast",
    "Interval",
    "Verdict",
    "bca_interval",
    "cluster_means",
    "cohen_dz",
    "dose_response",
    "effects",
    "holm",
    "keyed_generator",
    "paired_t",
    "prompt_slopes",
    "tost",
    "verdict",
    "wilcoxon",
]
