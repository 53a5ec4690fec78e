"""Table 1 and Figure 2: how concentrated attention is, over layers and steps, and who the sinks are."""

from __future__ import annotations

from typing import Any

from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.study import ObservePlan

PROMPTS = (
    "A photo of a cat sitting on a windowsill",
    "A beautiful sunset over the ocean",
    "A professional portrait of a businessman",
    "An abstract painting with vibrant colors",
    "A cozy living room with modern furniture",
    "A mountain landscape with snow-capped peaks",
    "A delicious plate of pasta with tomato sauce",
    "A futuristic city skyline at night",
)
"""Built into `experiments/collect_h1_dynamic.py`."""


def corrected(m: Setting) -> dict[str, Any]:
    """All prompts count, at the step they were seen at; every layer; sinks by role and place; two seeds."""
    return {
        **m.stratified(full=60, demo=36),
        "seeds": (0, 1),
        "arms": {},
        "metrics": (),
        "steps": 20,
        "observe": ObservePlan(keys_per_head=5, units=None if m.model.embedded else 120),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """Eight prompts, seeds 42 + i, layers n/4, n/2 and 3n/4."""
    return {
        **m.given(PROMPTS, demo=8),
        "noise_base": 42,
        "arms": {},
        "metrics": (),
        "steps": 20,
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, keys_per_head=1, units=8),
    }


PRESET = Preset(
    name="paper/table1",
    aliases=("paper/figure2",),
    title="Sink dynamics",
    question="How concentrated is attention over layers and steps, and which tokens are the sinks?",
    paper="Table 1, Figure 2",
    variants={
        CORRECTED: Variant(
            corrected,
            "Every layer, all prompts and two seeds, statistics at the step they belong to; sinks by "
            "segment, role and place, so that it shows whether they are padding, structure or content.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "The release's 8 prompts, seeds 42 + i, 20 steps, three layers, the largest mass of each head.",
            (
                "The release's table holds the last prompt alone, one step late (D1, D2); here all eight "
                "count, at their own step. Select the last unit to repeat it.",
                "Sinks are named by token and place, not by the mean of key numbers (D6).",
            ),
        ),
    },
    repaired=("D1", "D2", "D5", "D6", "D43", "D57"),
)
