"""Table 12: one layer or several."""

from __future__ import annotations

from typing import Any

from sinkscope.attention import ReplaceValue, ScaleProbability
from sinkscope.models import Edit
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import first_text_key, sinks, with_controls
from sinkscope.study import ObservePlan

METRICS = ("clip_t", "lpips")


def both(**scope: Any) -> tuple[Edit, Edit]:
    """The release's "both": weight times 0 and value zero on the first text key."""
    return (
        first_text_key(ScaleProbability(0.0), **scope),
        first_text_key(ReplaceValue(with_="zero"), **scope),
    )


def corrected(m: Setting) -> dict[str, Any]:
    """One layer, three, all, each with its controls."""
    scopes = {"single": m.middle, "multi": m.several}
    if m.model.family == "joint":
        scopes["all"] = {}
    arms: dict[str, Edit] = {}
    for name, scope in scopes.items():
        edit = sinks(1, **scope)
        arms |= with_controls(name, edit, "segment", "mass", "persistence")
    arms["null"] = arms["multi"].control("null")
    return {
        **m.stratified(full=96, demo=36),
        **m.judged(*METRICS),
        "arms": arms,
        "steps": m.steps(50),
        "observe": ObservePlan(**m.watched, units=12 if m.model.embedded else 8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """The begin mark of CLIP in one layer and in three."""
    arms = {name: both(**m.text_sites(scope)) for name, scope in (("single", m.middle), ("multi", m.several))}
    return {
        **m.balanced(full=32, demo=32),
        **m.metrics("clip_t"),
        "noise_base": 42,
        "arms": arms,
        "steps": m.steps(50),
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, units=8),
    }


PRESET = Preset(
    name="paper/table12",
    title="One layer or several",
    question="Does removing sinks in several layers at once do what removing them in one does not?",
    paper="Table 12",
    variants={
        CORRECTED: Variant(
            corrected,
            "Dynamic sinks removed in one layer, in three and in all, each with controls matched in segment, "
            "mass and persistence.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "The first text key, weight 0 and value zero, in layer n/2 or in n/4, n/2 and 3n/4; 32 balanced "
            "prompts, 50 steps, seeds 42 + i.",
            ("Value zero changes nothing beside weight 0 (D18); both edits are kept.",),
        ),
    },
    repaired=("D18", "D19", "D32"),
)
