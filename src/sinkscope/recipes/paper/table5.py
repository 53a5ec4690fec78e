"""Table 5: self- and cross-attention of a UNet (SDXL)."""

from __future__ import annotations

from typing import Any

from sinkscope.recipes._facts import SDXL
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import sinks
from sinkscope.study import ObservePlan

METRICS = ("clip_t", "lpips")
SITES = {"self": "mid_block*attn1", "cross": "mid_block*attn2"}
CONTROLS = {"self": {"random": "count", "mass": "mass", "persist": "persistence"}}
CONTROLS["cross"] = CONTROLS["self"]


def corrected(m: Setting) -> dict[str, Any]:
    """Each kind of site with controls matched in number, mass and persistence."""
    arms = {}
    for kind, sites in SITES.items():
        edit = sinks(1, sites=sites, kind=kind)
        arms[f"{kind}_null"] = edit.control("null")
        arms[f"{kind}_sink_1"] = edit
        for name, control in CONTROLS[kind].items():
            arms[f"{kind}_{name}_1"] = edit.control(control, seed=0)
    return {
        **m.stratified(full=100, demo=48),
        **m.judged(*METRICS),
        "arms": arms,
        "steps": 20,
        "observe": ObservePlan(units=24 if m.model.embedded else 8, kind="all"),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """All layers of the middle block, one key per head, seeds 1000 + i, no control."""
    return {
        **m.balanced(full=100, demo=48),
        **m.metrics(*METRICS),
        "noise_base": 1000,
        "arms": {f"{kind}_sink_1": sinks(1, sites=sites, kind=kind) for kind, sites in SITES.items()},
        "steps": 20,
        "guidance": m.explicit(5.0),
        "observe": ObservePlan(units=24 if m.model.embedded else 8, kind="all"),
    }


PRESET = Preset(
    name="paper/table5",
    title="SDXL: self- and cross-attention",
    question="Does what holds for joint attention hold for the self- and cross-attention of a UNet?",
    paper="Table 5",
    variants={
        CORRECTED: Variant(
            corrected,
            "The middle block's attn1 and attn2, one key per head, each with controls matched in number, "
            "mass and persistence (all keys of a site are of one segment) and the masked path alone.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "The middle block's attn1 or attn2, all its layers, one key per head, 100 balanced prompts, "
            "seeds 1000 + i, 20 steps, guidance 5, no control.",
            ("The release's scripts use 32 or 100 prompts; here 100, as its REPRODUCE file says (D32).",),
        ),
    },
    repaired=("D10", "D16", "D19", "D42"),
    model="shapes-unet",
    paper_model=SDXL,
    families=("unet",),
)
