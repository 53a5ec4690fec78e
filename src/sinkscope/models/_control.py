"""Controls: what an edit is compared with, and what that comparison holds equal.

A random control may differ from the treated keys in more than being a sink: in segment, in mass, in how long
the same keys stay chosen. `ControlInfo` states which of these were held equal, so that a table never has to
be guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from sinkscope.attention import Action, BottomMass, Frozen, Mask, RandomKeys, Selector, TopMass
from sinkscope.errors import UsageError, unknown
from sinkscope.models._matched import MatchedRandom, NoKeys, shares_heads


@dataclass(frozen=True)
class ControlInfo:
    """What a control is the control of."""

    of: str
    """`Edit.hash` of the treatment."""
    kind: str
    """`"count"`, `"segment"`, `"bottom"` or `"null"`."""
    matched: tuple[str, ...]
    """What is held equal: of `count per head`, `shared over heads`, `segment`, `persistence`, `path`."""
    text: str
    """One sentence for tables and pages."""
    seed: int | None = None
    """Seed of the draw; None where nothing is drawn."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML or JSON."""
        return {**asdict(self), "matched": list(self.matched)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ControlInfo:
        """Build what `to_dict` wrote.

        Raises:
            UsageError: a field is missing or unknown.
        """
        known = [entry.name for entry in fields(cls)]
        if not isinstance(plain, Mapping):
            raise UsageError(
                f"Got {plain!r} as a control. Expected a mapping with the fields {', '.join(known)}."
            )
        for name in plain:
            if name not in known:
                raise unknown("field of a control", name, known)
        missing = [name for name in known if name not in plain and name != "seed"]
        if missing:
            raise UsageError(f"A control lacks the fields {', '.join(missing)}. Expected {', '.join(known)}.")
        return cls(**{**plain, "matched": tuple(plain["matched"])})


class ControlParts(NamedTuple):
    """What differs between a control and its treatment."""

    select: Selector
    action: Action
    matched: tuple[str, ...]
    text: str
    seed: int | None


def control_parts(select: Selector, action: Action, kind: str, *, seed: int) -> ControlParts:
    """Selector, action and description of the control `kind` of an edit.

    Raises:
        UsageError: the kind does not exist, or does not exist for this selector.
    """
    if kind not in _BUILDERS:
        raise unknown("control", kind, _BUILDERS)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"Got seed={seed!r}. Expected a whole number.")
    if isinstance(select, Frozen) and kind != "null":
        inner = control_parts(select.select, action, kind, seed=seed)
        text = f"{inner.text}; chosen at step {select.step} and kept, like the treated keys"
        return inner._replace(
            select=replace(select, select=inner.select), matched=(*inner.matched, "persistence"), text=text
        )
    return _BUILDERS[kind](select, action, seed)


def _count(select: Selector, action: Action, seed: int) -> ControlParts:
    drawn: Selector
    if isinstance(select, (TopMass, BottomMass, RandomKeys)):
        drawn = RandomKeys(
            keys_per_head=select.keys_per_head, shared_keys=select.shared_keys, seed=seed, exclude=select
        )
    else:
        drawn = MatchedRandom(select, seed=seed, by="count")
    text = "as many random keys in every row and head, never the keys the treatment would take there"
    return ControlParts(drawn, action, ("count per head", *_sharing(select)), text, seed)


def _segment(select: Selector, action: Action, seed: int) -> ControlParts:
    drawn = MatchedRandom(select, seed=seed, by="segment")
    text = (
        "as many random keys of each segment (image, text ...) in every row and head, never the keys the "
        "treatment would take there"
    )
    return ControlParts(drawn, action, ("count per head", "segment", *_sharing(select)), text, seed)


def _bottom(select: Selector, action: Action, seed: int) -> ControlParts:
    if not isinstance(select, TopMass):
        raise UsageError(
            f"Got the 'bottom' control of {type(select).__name__}. Expected TopMass: only keys chosen for "
            "having the largest mass have an opposite. Use 'count' or 'segment'."
        )
    lowest = BottomMass(
        keys_per_head=select.keys_per_head, shared_keys=select.shared_keys, queries=select.queries
    )
    text = "as many keys in every row and head, those of smallest mass"
    return ControlParts(lowest, action, ("count per head", *_sharing(select)), text, None)


def _null(select: Selector, action: Action, seed: int) -> ControlParts:
    text = "no key at all, but through the same masked kernel call: what the path itself changes"
    return ControlParts(NoKeys(), Mask(), ("path",), text, None)


def _sharing(select: Selector) -> tuple[str, ...]:
    return ("shared over heads",) if shares_heads(select) else ()


_BUILDERS: dict[str, Callable[[Selector, Action, int], ControlParts]] = {
    "count": _count,
    "segment": _segment,
    "bottom": _bottom,
    "null": _null,
}
