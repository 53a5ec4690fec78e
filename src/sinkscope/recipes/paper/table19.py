"""Table 19: budgets, with keys of least mass and with queries."""

from __future__ import annotations

from typing import Any

from sinkscope.models import Edit
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import released_ladder, sinks, with_controls
from sinkscope.study import ObservePlan

METRICS = ("clip_t",)
KS = (1, 5, 10, 20, 50)


def corrected(m: Setting) -> dict[str, Any]:
    """Budgets per head with random, segment, bottom and query controls."""
    arms: dict[str, Edit] = {}
    for k in m.per_head(*KS):
        edit = sinks(k, **m.middle)
        arms.setdefault("null", edit.control("null"))
        arms |= with_controls(f"sink_{k}", edit, "segment", "bottom", "query")
    return {
        **m.stratified(full=64, demo=24),
        **m.judged(*METRICS),
        "arms": arms,
        "steps": 20,
        "observe": ObservePlan(**m.watched, units=12 if m.model.embedded else 8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """One set for all heads, random keys, keys of least mass."""
    ladder = m.ladder(*KS)
    arms = released_ladder(ladder, **m.middle)
    for k in ladder:
        arms[f"bottom_{k}"] = arms[f"sink_{k}"].control("bottom")
    arms["query"] = arms["sink_1"].control("null")
    return {
        **m.first_lines(full=64, demo=30),
        **m.metrics(*METRICS),
        "noise_base": 1000,
        "arms": arms,
        "steps": 20,
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, units=8),
    }


PRESET = Preset(
    name="paper/table19",
    title="Budget sweep",
    question="From which budget on does alignment change, and do other keys or queries do the same?",
    paper="Table 19",
    variants={
        CORRECTED: Variant(
            corrected,
            "Budgets per head, controls of the same segment, keys of least mass, and queries whose output is "
            "replaced by the mean, which changes something.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "k x heads keys in one set for all heads of layer n/2, k in {1, 5, 10, 20, 50}; random keys, "
            "keys of least mass; the first 64 prompts, seeds 1000 + i.",
            (
                "high_outgoing_query adds one constant to whole softmax rows, which changes nothing (D13): "
                "the arm query takes the masked path with a mask of zeros, once for all k.",
            ),
        ),
    },
    repaired=("D9", "D10", "D11", "D12", "D13", "D16", "D19"),
)
