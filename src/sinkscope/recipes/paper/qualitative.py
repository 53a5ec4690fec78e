"""Qualitative panels: baseline, sinks removed, control, side by side."""

from __future__ import annotations

from typing import Any

from sinkscope.models import Edit
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper import table6
from sinkscope.recipes.paper._arms import sinks, with_controls
from sinkscope.study import ObservePlan


def corrected(m: Setting) -> dict[str, Any]:
    """The panels of Table 6, each edit beside a control of the same segment."""
    arms: dict[str, Edit] = {}
    for k in m.per_head(*table6.KS):
        arms |= with_controls(f"sink_{k}", sinks(k, **m.middle), "count", "segment")
    return {
        **m.stratified(full=64, demo=60),
        **m.metrics("lpips", "clip_t"),
        "arms": arms,
        "steps": 20,
        "observe": ObservePlan(**m.watched, units=8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """The images of Tables 6 and 7."""
    return {**table6.as_released(m), **m.metrics("lpips", "clip_t")}


PRESET = Preset(
    name="paper/qualitative",
    title="Qualitative panels",
    question="What does an image look like without its sinks, and without as many other keys?",
    paper="qualitative panels",
    variants={
        CORRECTED: Variant(
            corrected,
            "Baseline, sinks removed and two controls of the same prompt and noise side by side; the page "
            "shows prompts by a rule fixed beforehand, not by hand.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "The images of paper/table6 as released.",
            ("Groups and labels by pixel heuristics are not made; the page orders by measured distance.",),
        ),
    },
    repaired=("D12", "D60"),
)
