"""Table 13: phases of the run."""

from __future__ import annotations

from typing import Any

from sinkscope.models import Edit
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import sinks, with_controls
from sinkscope.recipes.paper.table12 import both
from sinkscope.study import ObservePlan

METRICS = ("clip_t", "lpips")
PHASES = {"full": (0.0, 1.0), "early": (0.0, 0.2), "mid": (0.4, 0.6), "late": (0.8, 1.0)}


def released_steps(start: float, end: float, total: int) -> list[int]:
    """Steps that the release alters for a phase.

    Its label of a step is that of the step before it, and the first step carries the last label of the prompt
    before (D3): with 50 steps "early" is 1-10, "mid" 21-30 and "late" 41-49 and 0.
    """
    labels = [1.0, *(step / (total - 1) for step in range(total - 1))]
    return [step for step, label in enumerate(labels) if start <= label <= end]


def corrected(m: Setting) -> dict[str, Any]:
    """Windows on the true step, dynamic sinks, matched controls."""
    arms: dict[str, Edit] = {}
    for name, window in PHASES.items():
        arms |= with_controls(name, sinks(1, **m.middle, steps=window), "segment", "mass")
    arms["null"] = arms["full"].control("null")
    return {
        **m.stratified(full=96, demo=36),
        **m.judged(*METRICS),
        "arms": arms,
        "steps": m.steps(50),
        "observe": ObservePlan(**m.watched, units=12 if m.model.embedded else 8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """The steps that the release really altered."""
    total = m.steps(50)
    arms = {}
    for name, window in PHASES.items():
        steps = (0.0, 1.0) if name == "full" else released_steps(*window, total)
        arms[name] = both(**m.text_sites(m.middle), steps=steps)
    return {
        **m.balanced(full=32, demo=32),
        **m.metrics("clip_t"),
        "noise_base": 42,
        "arms": arms,
        "steps": total,
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, units=8),
    }


PRESET = Preset(
    name="paper/table13",
    title="Phases of the run",
    question="Are sinks needed early, in the middle or late in the run?",
    paper="Table 13",
    variants={
        CORRECTED: Variant(
            corrected,
            "Windows of the true step (first, middle and last fifth, and all), dynamic sinks, controls "
            "matched in segment and mass.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "The first text key, weight 0 and value zero, layer n/2, at the steps the release really altered "
            "(one late; 'late' also the first); 32 balanced prompts, 50 steps, seeds 42 + i.",
            ("The first prompt of the release differs from the others in step 0 of 'early' and 'mid' (D3).",),
        ),
    },
    repaired=("D3", "D18", "D19", "D57"),
)
