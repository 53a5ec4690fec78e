"""Sinks of a vision transformer without registers against those of one with four."""

from __future__ import annotations

from typing import Any

from sinkscope.attention import Mask, Segment
from sinkscope.models import Edit
from sinkscope.recipes._ladder import ladder
from sinkscope.recipes._preset import Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.study import ObservePlan

PLAIN, REGISTERS = "plain", "registers"
MODELS = {PLAIN: "shapes-vit", REGISTERS: "shapes-vit-registers"}
MARGINS = {"loss": 0.05, "accuracy": 0.02}
"""Smallest differences that would matter, declared before the first run: a twentieth of a nat per answer, two
answers in a hundred."""
FULL, DEMO = 240, 60


def _fields(m: Setting, **more: Edit) -> dict[str, Any]:
    return {
        "prompts": "shapes",
        "n_prompts": FULL if m.full else DEMO,
        "arms": {**ladder(), **more},
        "steps": 1,
        "metrics": ("loss", "accuracy", "top1", "feature_cosine"),
        "metric_options": {"feature_cosine": {"of": "patches"}},
        "margins": MARGINS,
        "equivalence": tuple(MARGINS),
        "observe": ObservePlan(),
    }


def plain(m: Setting) -> dict[str, Any]:
    """The model without registers."""
    return _fields(m)


def registers(m: Setting) -> dict[str, Any]:
    """The model with registers, and what removing all four of them does."""
    edit = Edit(Segment("register"), Mask())
    return _fields(m, registers=edit, registers_random=edit.control("count", seed=0))


PRESET = Preset(
    name="vision/registers",
    title="Registers against no registers in a small vision transformer",
    question="Do registers take the sinks over, and what does removing 1, 5 or 10 of the sinks cost?",
    paper="not of the paper",
    model="shapes-vit",
    paper_model="shapes-vit",
    models=MODELS,
    families=("vision",),
    together=True,
    variants={
        PLAIN: Variant(
            plain,
            "DINOv2 in miniature says which shapes a painted scene holds and in which colour. The heaviest "
            "keys of every head of every layer, as many random keys, and random keys of as much mass, are "
            "removed.",
        ),
        REGISTERS: Variant(
            registers,
            "The same with four register tokens, on the same scenes; in two more arms the four registers, "
            "and as many random keys, are removed.",
        ),
    },
)
