"""Arms that the studies of reading models share."""

from __future__ import annotations

from collections.abc import Iterable

from sinkscope.attention import Mask, TopMass
from sinkscope.models import Edit
from sinkscope.recipes.paper._arms import with_controls

BUDGETS = (1, 5, 10)
CONTROLS = ("count", "mass")
"""As many random keys, and random keys of as much mass."""


def ladder(budgets: Iterable[int] = BUDGETS) -> dict[str, Edit]:
    """`null`, and for each budget the heaviest keys of every head of every layer with two controls."""
    arms: dict[str, Edit] = {}
    for keys in budgets:
        sink = Edit(TopMass(keys_per_head=keys), Mask())
        arms.setdefault("null", sink.control("null"))
        arms |= with_controls(f"sink_{keys}", sink, *CONTROLS)
    return arms
