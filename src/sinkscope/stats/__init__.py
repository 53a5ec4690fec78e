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

from ._bootstrap import Interval, keyed_generator
from ._boundary import Boundary, dose_boundary, find_boundary
from ._distances import Distance, frechet, gaussian, mmd, paired_frechet, paired_mmd, polynomial
from ._dose import dose_response, page_trend, prompt_slopes
from ._double import DoubleContrast, difference_of_differences, double_effects
from ._effects import Contrast, effects
from ._intervals import bca_interval, clustered_interval, mean_interval
from ._leave_out import leave_one_task_out
from ._margin import Margin, calibrated_margin
from ._multiplicity import benjamini_hochberg, holm
from ._power import (
    Needed,
    detectable_effect,
    detectable_margin,
    power_difference,
    power_equivalence,
    prompts_for_difference,
    prompts_for_equivalence,
)
from ._power_table import power_table
from ._proportions import paired_proportions
from ._rank import check_rank
from ._ratio import Ratio, fieller_interval, ratio_of_means
from ._ratio_table import ratios
from ._signflip import sign_flip
from ._tests import cluster_means, cohen_dz, paired_t, tost, wilcoxon
from ._verdict import Verdict, interval_verdict, verdict

__all__ = [
    "Boundary",
    "Contrast",
    "Distance",
    "DoubleContrast",
    "Interval",
    "Margin",
    "Needed",
    "Ratio",
    "Verdict",
    "bca_interval",
    "benjamini_hochberg",
    "calibrated_margin",
    "check_rank",
    "cluster_means",
    "clustered_interval",
    "cohen_dz",
    "detectable_effect",
    "detectable_margin",
    "difference_of_differences",
    "dose_boundary",
    "dose_response",
    "double_effects",
    "effects",
    "fieller_interval",
    "find_boundary",
    "frechet",
    "gaussian",
    "holm",
    "interval_verdict",
    "keyed_generator",
    "leave_one_task_out",
    "mean_interval",
    "mmd",
    "paired_frechet",
    "paired_mmd",
    "page_trend",
    "paired_proportions",
    "paired_t",
    "polynomial",
    "power_difference",
    "power_equivalence",
    "power_table",
    "prompt_slopes",
    "prompts_for_difference",
    "prompts_for_equivalence",
    "ratio_of_means",
    "ratios",
    "sign_flip",
    "tost",
    "verdict",
    "wilcoxon",
]
