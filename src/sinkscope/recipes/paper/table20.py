"""Table 20: preference at growing budgets, and whether it is specific to sinks."""

from __future__ import annotations

from typing import Any

from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import matched_ladder, released_ladder
from sinkscope.study import ObservePlan

METRICS = ("hps", "clip_t", "imagereward")
KS = (1, 10, 50)


def corrected(m: Setting) -> dict[str, Any]:
    """Budgets per head with four matched controls each, and the slope over budgets."""
    return {
        **m.stratified(full=96, demo=30),
        **m.judged(*METRICS),
        "arms": matched_ladder(m.per_head(*KS), **m.middle),
        "steps": 20,
        "observe": ObservePlan(**m.watched, units=12 if m.model.embedded else 8, replacements=1),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """One set for all heads against random keys of the whole sequence."""
    return {
        **m.balanced(full=64, demo=48),
        **m.metrics(*METRICS),
        "noise_base": 1000,
        "arms": released_ladder(m.ladder(*KS), **m.middle),
        "steps": 20,
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, units=8),
    }


PRESET = Preset(
    name="paper/table20",
    title="Preference against budget",
    question="Does preference fall with the budget, and more than for other keys of the same kind?",
    paper="Table 20",
    variants={
        CORRECTED: Variant(
            corrected,
            "Budgets per head with controls matched in number, segment, mass and persistence at each, and "
            "the slope over budgets of the edit, of its controls and of their difference.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "k x heads keys in one set for all heads of layer n/2, k in {1, 10, 50}, against random keys of "
            "the whole sequence; 64 balanced prompts, seeds 1000 + i.",
            ("The dose trend is a slope over all budgets, not the difference of the two largest.",),
        ),
    },
    repaired=("D9", "D10", "D11", "D16", "D19", "D24", "D59"),
)
