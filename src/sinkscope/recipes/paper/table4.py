"""Table 4: does the edit take the mass away that it says it takes?"""

from __future__ import annotations

from typing import Any

from sinkscope.attention import ScaleProbability, Segment, TopMass
from sinkscope.models import Edit
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import first_text_key
from sinkscope.study import ObservePlan

ETAS = (1.0, 0.5, 0.1, 0.01, 0.0)
PROMPTS = (
    "A beautiful mountain landscape at sunset",
    "A cute cat sitting on a windowsill",
    "A futuristic city with flying cars",
    "A cozy coffee shop interior",
)
"""Built into `experiments/verify_intervention.py`."""


def corrected(m: Setting) -> dict[str, Any]:
    """Dynamic sinks and the begin mark by identity, with the receipt of every call."""
    scope, text = m.middle, m.text_sites(m.middle)
    arms = {f"eta_{eta:g}": Edit(TopMass(keys_per_head=1), ScaleProbability(eta), **scope) for eta in ETAS}
    arms |= {f"bos_eta_{eta:g}": Edit(Segment("bos"), ScaleProbability(eta), **text) for eta in ETAS[1:]}
    arms["null"] = arms["eta_0"].control("null")
    return {
        **m.stratified(full=24, demo=24),
        **m.metrics("lpips"),
        "arms": arms,
        "steps": 20,
        "observe": ObservePlan(**m.watched, units=8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """The begin mark of CLIP, four prompts."""
    scope = m.text_sites(m.middle)
    return {
        **m.given(PROMPTS, demo=4),
        **m.metrics("lpips"),
        "noise_base": 42,
        "arms": {f"eta_{eta:g}": first_text_key(ScaleProbability(eta), **scope) for eta in ETAS},
        "steps": 20,
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, units=4),
    }


PRESET = Preset(
    name="paper/table4",
    title="Verification of the edit",
    question="How much attention mass is left on the edited keys?",
    paper="Table 4",
    variants={
        CORRECTED: Variant(
            corrected,
            "Five strengths on the dynamic sinks that the other tables remove, and on the begin mark named "
            "by identity. Receipts hold the exact mass before and after; no factor against a floor.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "The first text key, weights times eta in {1, 0.5, 0.1, 0.01, 0}, layer n/2, four prompts.",
            (
                "Prompt i starts from seed 42 + i; the release drew all four from one generator in turn.",
                "A mass of exactly 0 is reported as such; 44,059x is the baseline share over a floor of "
                "1e-6 (D7).",
            ),
        ),
    },
    repaired=("D5", "D7", "D8", "D18", "D45"),
)
