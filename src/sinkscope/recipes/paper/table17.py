"""Table 17: how far the machinery itself moves an image."""

from __future__ import annotations

from typing import Any

from sinkscope.attention import ScaleLogit, ScaleProbability, TopMass
from sinkscope.models import Edit
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import sinks
from sinkscope.study import ObservePlan

METRICS = ("lpips", "rmse")


def corrected(m: Setting) -> dict[str, Any]:
    """Every path that edits take, with nothing to do: masks of zeros, identity edits, the same arm again."""
    everywhere: dict[str, Any] = {"kind": "all"} if m.model.family == "unet" else {}
    top = TopMass(keys_per_head=1)
    return {
        **m.stratified(full=100, demo=60),
        **m.judged(*METRICS),
        "arms": {
            "repeat": None,
            "null": sinks(1, **m.middle).control("null"),
            "null_all": sinks(1, **everywhere).control("null"),
            "logit_0": Edit(top, ScaleLogit(factor=1.0, shift=0.0), **everywhere),
            "eta_1": Edit(top, ScaleProbability(eta=1.0), **everywhere),
        },
        "steps": m.steps(28),
        "observe": ObservePlan(**m.watched, units=8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """Wrappers that pass the call on."""
    return {
        **m.balanced(full=100, demo=60),
        **m.metrics(*METRICS),
        "noise_base": 42,
        "arms": {"wrapper_1": None, "wrapper_2": None},
        "steps": m.steps(28),
        "guidance": m.explicit(7.0),
        "observe": None,
    }


PRESET = Preset(
    name="paper/table17",
    title="No-op",
    question="How far does the machinery move an image when it has nothing to do?",
    paper="Table 17",
    variants={
        CORRECTED: Variant(
            corrected,
            "Masks of zeros in one layer and in all, edits at their identity setting, and the baseline once "
            "more: the paths that treated arms take. Distances are computed, whatever they are.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "100 balanced prompts, 28 steps, guidance 7, seeds 42 + i, two wrappers that pass the call on.",
            ("LPIPS is computed; the release writes 0 where pixels differ little (D15).",),
        ),
    },
    repaired=("D15", "D16"),
)
