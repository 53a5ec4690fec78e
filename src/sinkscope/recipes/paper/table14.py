"""Table 14: the main result by task."""

from __future__ import annotations

from typing import Any

from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import sinks, with_controls
from sinkscope.study import ObservePlan

METRICS = ("clip_t", "lpips")


def corrected(m: Setting) -> dict[str, Any]:
    """A1 with matched controls, as many prompts of every task."""
    edit = sinks(1, **m.middle)
    return {
        **m.stratified(full=480, demo=96),
        **m.judged(*METRICS),
        "arms": {"null": edit.control("null"), **with_controls("A1", edit, "count", "segment")},
        "steps": 20,
        "observe": ObservePlan(**m.watched, units=12 if m.model.embedded else 8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """A1 on all prompts."""
    return {
        **m.first_lines(full=553, demo=120),
        **m.metrics(*METRICS),
        "noise_base": 42,
        "arms": {"A1": sinks(1, **m.middle)},
        "steps": 20,
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, units=8),
    }


PRESET = Preset(
    name="paper/table14",
    title="By task",
    question="Does removing sinks hurt some tasks (counting, position, binding) more than others?",
    paper="Table 14",
    variants={
        CORRECTED: Variant(
            corrected,
            "A1 with random and segment controls, as many prompts of each of GenEval's six tasks, every task "
            "its own row; p adjusted over the breakdown.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "A1 on all prompts of GenEval, seeds 42 + i, by task.",
            (
                "Tasks are GenEval's six; the release's keywords count the 100 color_attr prompts twice, as "
                "two_object and as color.",
            ),
        ),
    },
    repaired=("D10", "D12", "D19", "D23"),
)
