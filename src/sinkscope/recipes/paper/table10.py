"""Tables 10 and 11: dose-response on the score path (eta) and on the value path."""

from __future__ import annotations

from typing import Any

from sinkscope.attention import ReplaceValue, ScaleProbability, Segment, TopMass
from sinkscope.models import Edit
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._setting import Setting
from sinkscope.recipes.paper._arms import first_text_key, with_controls
from sinkscope.study import ObservePlan

METRICS = ("clip_t", "imagereward", "lpips")
ETAS = (0.0, 0.01, 0.1, 0.25, 0.5, 1.0)
VALUES = {"value_zero": ("zero", 1.0), "value_mean": ("mean", 1.0), "value_half": ("mean", 0.5)}


def values() -> dict[str, ReplaceValue]:
    """Values of the sinks: zero, the mean of all keys, half way to that mean."""
    return {
        name: ReplaceValue(with_=target, amount=amount)  # type: ignore[arg-type]  # two literals
        for name, (target, amount) in VALUES.items()
    }


def corrected(m: Setting) -> dict[str, Any]:
    """Dynamic sinks on both paths, with segment controls at the ends of each."""
    select, scope = TopMass(keys_per_head=1), m.middle
    arms = {f"eta_{eta:g}": Edit(select, ScaleProbability(eta), **scope) for eta in ETAS[1:-1]}
    arms["null"] = arms["eta_0.5"].control("null")
    arms |= with_controls("eta_0", Edit(select, ScaleProbability(0.0), **scope), "segment", "mass")
    for name, action in values().items():
        kinds = ("segment",) if action.amount == 1.0 else ()
        arms |= with_controls(name, Edit(select, action, **scope), *kinds)
    text = m.text_sites(scope)
    arms["bos_eta_0"] = Edit(Segment("bos"), ScaleProbability(0.0), **text)
    arms["bos_value_zero"] = Edit(Segment("bos"), values()["value_zero"], **text)
    return {
        **m.stratified(full=96, demo=36),
        **m.judged(*METRICS),
        "arms": arms,
        "steps": m.steps(50),
        "observe": ObservePlan(**m.watched, units=12 if m.model.embedded else 8),
    }


def as_released(m: Setting) -> dict[str, Any]:
    """The begin mark of CLIP on both paths."""
    scope = m.text_sites(m.middle)
    arms = {f"eta_{eta:g}": first_text_key(ScaleProbability(eta), **scope) for eta in ETAS}
    arms |= {name: first_text_key(action, **scope) for name, action in values().items()}
    return {
        **m.balanced(full=32, demo=32),
        **m.metrics(*METRICS),
        "noise_base": 42,
        "arms": arms,
        "steps": m.steps(50),
        "guidance": m.explicit(7.0),
        "observe": ObservePlan(**m.watched, units=8),
    }


PRESET = Preset(
    name="paper/table10",
    aliases=("paper/table11",),
    title="Dose-response on score and value path",
    question="Does alignment fall with the strength of the edit, on the score path or on the value path?",
    paper="Tables 10 and 11",
    variants={
        CORRECTED: Variant(
            corrected,
            "Dynamic sinks, weights times eta or values replaced, with controls of the same segment (and "
            "mass) at full strength; the begin mark by identity beside them.",
        ),
        AS_RELEASED: Variant(
            as_released,
            "The first text key, layer n/2: eta in {0, 0.01, 0.1, 0.25, 0.5, 1}; its value zero, mean, "
            "half; 32 balanced prompts, 50 steps, guidance 7.",
            (
                "Prompt i starts from seed 42 + i throughout; the sweeps of the release drew from one "
                "generator in turn.",
                "lerp 0.0 is the same edit as mean, and eta 0.01 and value zero serve for H2 as well (D44).",
            ),
        ),
    },
    repaired=("D18", "D19", "D44", "D45", "D58"),
)
