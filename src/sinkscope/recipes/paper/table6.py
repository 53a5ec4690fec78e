"""Tables 6 and 7: is the perceptual shift larger than that of random keys?"""

from __future__ import annotations

from typing import Any

from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import matched_ladder, released_ladder
from sinkscope.study import ObservePlan

METRICS = ("lpips", "clip_t", "hps")
KS = (1, 5)


def corrected(m: Setting) -> dict[str, Any]:
    """Each head its own keys; controls matched in number, segment, mass and persistence."""
    return {
        **m.stratified(full=64, demo=42),
        **m.judged(*METRICS),
        "arms": matched_ladder(m.per_head(*KS), **m.middle),
        "steps": 20,
        "observe": ObservePlan(**m.watched, units=18 if m.model.embedded else 8, replacements=1),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """One set for all heads; random keys of the whole sequence."""
    return {
        **m.first_lines(full=64, demo=48),
        **m.metrics(*METRICS),
        "noise_base": 1000,
        "arms": released_ladder(m.ladder(*KS), **m.middle),
        "steps": 20,
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, units=18 if m.model.embedded else 8),
    }


PRESET = Preset(
    name="paper/table6",
    aliases=("paper/table7",),
    title="Perceptual shift: sinks against random keys",
    question="Does removing sinks change the image more than removing as many other keys?",
    paper="Tables 6 and 7",
    variants={
        CORRECTED: Variant(
            corrected,
            "Budgets per head, and four controls: random keys that are never sinks, of the same segments, of "
            "the same mass, and kept over steps like sinks. Prompts over all tasks.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "k x heads keys in one set for all heads of layer n/2 (k = 1 and 5), image and text queries; "
            "random keys of the whole sequence, drawn anew at every step; the first 64 prompts, seeds 1000 "
            "+ i.",
            (
                "The release's random draws share seeds between prompts and steps (D11); here every draw is "
                "its own.",
            ),
        ),
    },
    repaired=("D9", "D10", "D11", "D12", "D16", "D19"),
)
