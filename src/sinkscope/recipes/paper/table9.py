"""Tables 9 and 18: how large is an intervention beside ordinary changes of sampling?"""

from __future__ import annotations

from typing import Any

from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import sinks, with_controls
from sinkscope.study import Arm, ObservePlan

METRICS = ("lpips", "clip_t")
ANOTHER = {"joint": "FlowMatchHeunDiscreteScheduler", "unet": "DPMSolverMultistepScheduler"}
USUAL = 7.5


def changes(m: Setting, *, shift: int) -> dict[str, Arm]:
    """Another seed, guidance a seventh lower or higher, fewer steps."""
    return {
        "seed": Arm(seed_shift=shift),
        "cfg_low": Arm(guidance=m.guidance(6.5, usual=USUAL)),
        "cfg_high": Arm(guidance=m.guidance(8.5, usual=USUAL)),
        "steps_15": Arm(steps=15),
        "steps_10": Arm(steps=10),
    }


def corrected(m: Setting) -> dict[str, Any]:
    """Changes of sampling and edits in one run, every image paired with the same baseline."""
    edit = sinks(1, **m.middle)
    return {
        **m.stratified(full=100, demo=48),
        **m.judged(*METRICS),
        "arms": {
            **changes(m, shift=1),
            "sampler": Arm(scheduler=ANOTHER[m.model.family]),
            "null": edit.control("null"),
            **with_controls("sink_1", edit, "segment"),
        },
        "steps": 20,
        "guidance": m.guidance(USUAL, usual=USUAL),
        "observe": ObservePlan(**m.watched, units=8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """Changes of sampling alone, seeds 1000 + i and 2000 + i."""
    return {
        **m.balanced(full=100, demo=48),
        **m.metrics(*METRICS),
        "noise_base": 1000,
        "arms": changes(m, shift=1000),
        "steps": 20,
        "guidance": m.guidance(USUAL, usual=USUAL),
        "observe": None,
    }


PRESET = Preset(
    name="paper/table9",
    aliases=("paper/table18",),
    title="Calibration against sampling changes",
    question="How large is an intervention beside another seed, guidance, number of steps or sampler?",
    paper="Tables 9 and 18",
    variants={
        CORRECTED: Variant(
            corrected,
            "Seed, guidance, steps and another sampler that solves the model's equation, beside removing "
            "sinks and its control, all paired with one baseline; distances per image instead of FID.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "100 balanced prompts, seeds 1000 + i against 2000 + i, guidance 6.5 and 8.5 against 7.5, 15 "
            "and 10 steps against 20.",
            (
                "The Euler row is left out: built from SD3's configuration that sampler solves another "
                "equation (D14), and SD3's own sampler is Euler already.",
                "FID of 100 images in 2048 dimensions is rank deficient (D20); distances are per image.",
            ),
        ),
    },
    repaired=("D14", "D20", "D32"),
)
