"""Arms that several tables share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sinkscope.attention import Keys, Mask, RandomKeys, ScaleProbability, TopMass
from sinkscope.models import ControlInfo, Edit

PREFIX = {
    "count": "random",
    "segment": "segment",
    "mass": "mass",
    "persistence": "persist",
    "bottom": "bottom",
    "next": "next",
    "query": "query",
}
"""How the control of each kind is named: "random_5" is the count control of "sink_5"."""
MATCHED = ("count", "segment", "mass", "persistence")
FULL_PATH = (
    "The baseline takes the model's own kernel; the arm null says what the masked path changes by itself."
)


def sinks(keys_per_head: int, **scope: Any) -> Edit:
    """Remove the heaviest keys of every head, chosen anew at every step."""
    return Edit(TopMass(keys_per_head=keys_per_head), Mask(), **scope)


def with_controls(name: str, edit: Edit, *kinds: str) -> dict[str, Edit]:
    """An edit named "sink_5" (or "A1") and its controls, "random_5" (or "A1_random") and so on."""
    head, _, tail = name.partition("_")
    arms = {name: edit}
    for kind in kinds:
        own = f"{PREFIX[kind]}_{tail}" if head == "sink" and tail else f"{name}_{PREFIX[kind]}"
        arms[own] = edit.control(kind, seed=0)
    return arms


def matched_ladder(budgets: Iterable[int], **scope: Any) -> dict[str, Edit]:
    """`null`, and `sink_k` with every matched control at each budget per head."""
    arms: dict[str, Edit] = {}
    for k in budgets:
        edit = sinks(k, **scope)
        arms.setdefault("null", edit.control("null"))
        arms |= with_controls(f"sink_{k}", edit, *MATCHED)
    return arms


def released_sinks(shared: int, **scope: Any) -> Edit:
    """The release's `top_sink`: one set for all heads, ranked by the mean over heads."""
    return Edit(TopMass(shared_keys=shared), Mask(), **scope)


def released_random(edit: Edit, shared: int, **scope: Any) -> Edit:
    """The release's `random`: as many of all keys, sinks not excluded, drawn anew at every step."""
    info = ControlInfo(
        of=edit.hash,
        kind="count",
        matched=("count per head", "shared over heads"),
        text="as many random keys of the whole sequence, drawn anew at every step; may hold treated keys",
        seed=0,
    )
    return Edit(RandomKeys(shared_keys=shared, seed=0), Mask(), **scope, control_info=info)


def released_ladder(shared: dict[int, int], **scope: Any) -> dict[str, Edit]:
    """`sink_k` and `random_k` of the release for each k, with the budget that k stands for."""
    arms: dict[str, Edit] = {}
    for k, keys in shared.items():
        sink = released_sinks(keys, **scope)
        arms[f"sink_{k}"] = sink
        arms[f"random_{k}"] = released_random(sink, keys, **scope)
    return arms


def first_text_key(action: Any = None, **scope: Any) -> Edit:
    """The release's fixed sink: key 0 of its [text, image] order, the begin mark of CLIP's text."""
    return Edit(Keys((0,), segment="text"), action or ScaleProbability(eta=0.0), **scope)
