"""Table 3: preference scores (HPS v2.1) of the conditions of Table 2."""

from __future__ import annotations

from typing import Any

from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper import table2


def corrected(m: Setting) -> dict[str, Any]:
    """Table 2's corrected study, judged by preference."""
    return {**table2.corrected(m), **m.judged("hps", "clip_t")}


def as_released(m: Setting) -> dict[str, Any]:
    """Table 2's released study, judged by preference."""
    return {**table2.as_released(m), **m.metrics("hps")}


PRESET = Preset(
    name="paper/table3",
    title="Preference after removing sinks",
    question="Do people's preferences, as HPS v2.1 models them, change when sinks are removed?",
    paper="Table 3",
    variants={
        CORRECTED: Variant(
            corrected,
            "The corrected study of paper/table2 with HPS v2.1, a declared margin and matched controls. On "
            "the embedded models, whose pictures no preference model knows, the exact scene reader stands "
            "in.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "The images of paper/table2 as released, scored with HPS v2.1.",
            (
                "A score that cannot be computed is an error or a row with its reason, never left out in "
                "silence.",
            ),
        ),
    },
    repaired=("D9", "D10", "D19", "D24", "D59"),
)
