"""Sinks of an autoregressive language model against those of a masked-diffusion one."""

from __future__ import annotations

from typing import Any

from sinkscope.prompts import PromptRecord
from sinkscope.recipes._ladder import ladder
from sinkscope.recipes._preset import Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.study import ObservePlan

AUTOREGRESSIVE, MASKED = "autoregressive", "masked_diffusion"
MODELS = {AUTOREGRESSIVE: "shapes-lm", MASKED: "shapes-mdlm"}
PASSES = 16
"""Passes of the masked-diffusion model: about four words are uncovered after each."""
MARGINS = {"loss": 0.05, "accuracy": 0.02}
"""Smallest differences that would matter, declared before the first run: a twentieth of a nat per word, two
words in a hundred."""
SKIP = 10
"""Words at the start that are not scored: their causal queries see at most as many keys as an arm removes."""
METRICS = ("loss", "perplexity", "accuracy", "top1")
FULL, DEMO = 256, 48


def stories(count: int) -> list[PromptRecord]:
    """Texts that no model was trained on; the same ones for both models."""
    from sinkscope.shapes.language.stories import KEPT_FOR_TESTS, story

    return [
        PromptRecord(f"story-{index:04d}", story(KEPT_FOR_TESTS + index), "story") for index in range(count)
    ]


def _fields(m: Setting, steps: int) -> dict[str, Any]:
    return {
        "prompts": stories(FULL if m.full else DEMO),
        "arms": ladder(),
        "steps": steps,
        "metrics": METRICS,
        "metric_options": {name: {"skip": SKIP} for name in METRICS},
        "margins": MARGINS,
        "equivalence": tuple(MARGINS),
        "observe": ObservePlan(units=24 if m.full else None),
    }


def autoregressive(m: Setting) -> dict[str, Any]:
    """One pass over each text."""
    return _fields(m, 1)


def masked_diffusion(m: Setting) -> dict[str, Any]:
    """The same texts, uncovered in an order drawn for each."""
    return _fields(m, PASSES)


PRESET = Preset(
    name="language/sinks",
    title="Sinks of an autoregressive and of a masked-diffusion language model",
    question="Where are the sinks, do they move over steps, and what does removing 1, 5 or 10 of them cost?",
    paper="not of the paper",
    model="shapes-lm",
    paper_model="shapes-lm",
    models=MODELS,
    families=("language",),
    together=True,
    variants={
        AUTOREGRESSIVE: Variant(
            autoregressive,
            "Each story is read once from the left. The heaviest keys of every head of every layer, as many "
            "random keys, and random keys of as much mass, are removed. The first 10 words are not scored.",
        ),
        MASKED: Variant(
            masked_diffusion,
            "The same stories, uncovered in 16 passes in an order drawn for each story; keys are chosen anew "
            "in every pass. The loss is minus the log-probability of the story in that order, per word.",
        ),
    },
)
