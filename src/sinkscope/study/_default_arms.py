"""Arms for a model nobody has written a study for: remove the strongest sinks, and as many random keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sinkscope.attention import Mask, TopMass
from sinkscope.errors import NoMatchError
from sinkscope.models import Edit, Site

KINDS = ("joint", "self", "cross", "temporal", "causal")


def default_arms(
    sites: Iterable[Site], *, budgets: Sequence[int] = (1,), layers: Sequence[int] | None = None
) -> dict[str, Edit]:
    """Null, sink and count-matched random arms.

    Models with joint attention get one set of arms over their joint sites; others one set for each kind of
    site they have, named by it ("self_sink_1", "cross_sink_1"). Attention over time, whose receipts have a
    row for each place of the picture, is left to studies that name it, unless there is no other.

    Args:
        sites: The model's sites, as from `sinkscope.sites`.
        budgets: Keys per head of the sink and random arms.
        layers: Layers to edit; None for all.

    Raises:
        NoMatchError: There is no site.
    """
    kinds = {site.kind for site in sites if site.layer is not None}
    found = [kind for kind in KINDS if kind in kinds]
    if not found:
        raise NoMatchError("The model has no softmax attention in its blocks, so there is nothing to edit.")
    found = [kind for kind in found if kind != "temporal"] or found
    joint = "joint" in found
    chosen = None if layers is None else tuple(layers)
    arms: dict[str, Edit] = {}
    for kind in ("joint",) if joint else found:
        prefix = "" if joint else f"{kind}_"
        for budget in budgets:
            edit = Edit(TopMass(keys_per_head=budget), Mask(), layers=chosen, kind=None if joint else kind)
            arms.setdefault(f"{prefix}null", edit.control("null"))
            arms[f"{prefix}sink_{budget}"] = edit
            arms[f"{prefix}random_{budget}"] = edit.control("count")
    return arms
