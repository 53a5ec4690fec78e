"""Table 16: text sinks and image sinks."""

from __future__ import annotations

from typing import Any

from sinkscope.attention import TopMass, Within
from sinkscope.models import Edit
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import sinks, with_controls
from sinkscope.study import ObservePlan

METRICS = ("clip_t", "lpips")


def corrected(m: Setting) -> dict[str, Any]:
    """The same budget in text, in image and among all keys, in every head."""
    scope = m.middle
    text = Edit(TopMass(keys_per_head=1, within="text"), **m.text_sites(scope))
    image = Edit(TopMass(keys_per_head=1, within="image"), **m.image_sites(scope))
    every = sinks(1, **scope)
    arms: dict[str, Edit] = {"null": every.control("null")}
    for name, edit in (("text_1", text), ("image_1", image), ("sink_1", every)):
        arms |= with_controls(name, edit, "segment", "mass")
    return {
        **m.stratified(full=96, demo=48),
        **m.judged(*METRICS),
        "arms": arms,
        "steps": 20,
        "observe": ObservePlan(units=24 if m.model.embedded else 8, replacements=1),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """A head's heaviest key is removed if it is of the wanted segment; other heads stay as they are."""
    scope, top = m.middle, TopMass(keys_per_head=1)
    arms = {
        "text_only": Edit(Within(top, "text"), **m.text_sites(scope), queries="image"),
        "image_only": Edit(Within(top, "image"), **m.image_sites(scope), queries="image"),
        "sink_1": Edit(top, **scope, queries="image"),
    }
    return {
        **m.first_lines(full=32, demo=32),
        **m.metrics(*METRICS),
        "noise_base": 1000,
        "arms": arms,
        "steps": 20,
        "guidance": m.guidance(7.5, usual=7.5),
        "observe": ObservePlan(**_middle(m), units=32),
    }


def _middle(m: Setting) -> dict[str, Any]:
    return {} if m.model.family == "unet" else {"layers": m.middle["layers"]}


PRESET = Preset(
    name="paper/table16",
    title="Text sinks and image sinks",
    question="Are sinks text or image tokens, and does removing the ones do more than removing the others?",
    paper="Table 16",
    variants={
        CORRECTED: Variant(
            corrected,
            "One key per head in text, in image and among all keys: the same budget in every arm, each with "
            "controls of the same segment and of the same mass. Roles of the sinks in every layer.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "Layer n/2, image queries only: a head's heaviest key is removed if it is text (text_only) or "
            "image (image_only), or always (sink_1); the first 32 prompts, seeds 1000 + i, guidance 7.5.",
            (
                "The release's attribution of 'all 24 layers' intervenes on layer 12 and records layer 12 "
                "alone (D4); here layer n/2 of the unedited model is recorded, for the same 32 prompts "
                "instead of 50.",
            ),
        ),
    },
    repaired=("D4", "D12", "D16", "D17", "D43", "D46"),
)
