"""Table 15: sampling settings."""

from __future__ import annotations

from typing import Any

from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import sinks
from sinkscope.study import Arm, ObservePlan

METRICS = ("clip_t", "lpips")
USUAL = 7.5
SAMPLERS = {
    "joint": {"heun": "FlowMatchHeunDiscreteScheduler", "dpm": "DPMSolverMultistepScheduler"},
    "unet": {"heun": "HeunDiscreteScheduler", "dpm": "DPMSolverMultistepScheduler"},
}


def settings(m: Setting, *, samplers: bool) -> dict[str, dict[str, Any]]:
    """Guidance 3, 7.5 (the study's own) and 12; 8, 20 (the study's own) and 50 steps; other samplers."""
    found: dict[str, dict[str, Any]] = {
        "g3": {"guidance": m.guidance(3.0, usual=USUAL)},
        "g12": {"guidance": m.guidance(12.0, usual=USUAL)},
        "steps8": {"steps": 8},
        "steps50": {"steps": 50},
    }
    if samplers:
        found |= {name: {"scheduler": kind} for name, kind in SAMPLERS[m.model.family].items()}
    return found


def arms_under(setting: dict[str, Any], name: str, edits: dict[str, Any]) -> dict[str, Arm]:
    """The unedited arm of a setting and the edits beside it."""
    arms = {name: Arm(**setting)}
    return arms | {f"{edit}_{name}": Arm(made, against=name, **setting) for edit, made in edits.items()}


def corrected(m: Setting) -> dict[str, Any]:
    """Every setting with its own baseline, edit and control, samplers that solve the model's equation."""
    sink = sinks(1, **m.middle)
    edits = {"sink_1": sink, "segment_1": sink.control("segment", seed=0)}
    arms: dict[str, Any] = {"null": sink.control("null"), **edits}
    for name, setting in settings(m, samplers=True).items():
        arms |= arms_under(setting, name, edits)
    return {
        **m.stratified(full=36, demo=18),
        **m.judged(*METRICS),
        "arms": arms,
        "steps": 20,
        "guidance": m.guidance(USUAL, usual=USUAL),
        "observe": ObservePlan(**m.watched, units=6),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """Image queries alone, the first 32 prompts."""
    edits = {"sink_1": sinks(1, **m.middle, queries="image")}
    arms: dict[str, Any] = dict(edits)
    for name, setting in settings(m, samplers=False).items():
        arms |= arms_under(setting, name, edits)
    return {
        **m.first_lines(full=32, demo=32),
        **m.metrics(*METRICS),
        "noise_base": 1000,
        "arms": arms,
        "steps": 20,
        "guidance": m.guidance(USUAL, usual=USUAL),
        "observe": ObservePlan(**m.watched, units=6),
    }


PRESET = Preset(
    name="paper/table15",
    title="Sampling settings",
    question="Does the result depend on guidance, number of steps or sampler?",
    paper="Table 15",
    variants={
        CORRECTED: Variant(
            corrected,
            "Seven settings, each with its own baseline, edit and segment control: guidance, steps, Heun and "
            "DPM-Solver with the model's own equation. Prompts over all tasks.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "Layer n/2, one key per head, image queries only; guidance 3, 7.5, 12; 8, 20, 50 steps; the "
            "first 32 prompts, seeds 1000 + i.",
            (
                "The Euler and DPM++ rows are left out: built from SD3's configuration they solve another "
                "equation (D14).",
            ),
        ),
    },
    repaired=("D12", "D14", "D16", "D17", "D19"),
)
