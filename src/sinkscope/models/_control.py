"""Controls: what an edit is compared with, and what that comparison holds equal.

A random control may differ from the treated keys in more than being a sink: in segment, in mass, in how long
the same keys stay chosen. `ControlInfo` states which of these were held equal, so that a table never has to
be guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from sinkscope.attention import (
    Action,
    BottomMass,
    Frozen,
    Mask,
    NextMass,
    RandomKeys,
    ReplaceOutput,
    Selector,
    TopConcentration,
    TopMass,
)
from sinkscope.errors import UsageError, unknown
from sinkscope.models._matched import (
    MatchedMass,
    MatchedQueries,
    MatchedRandom,
    NoKeys,
    StandIns,
    shares_heads,
)


@dataclass(frozen=True)
class ControlInfo:
    """What a control is the control of."""

    of: str
    """`Edit.hash` of the treatment."""
    kind: str
    """`"count"`, `"segment"`, `"mass"`, `"persistence"`, `"bottom"`, `"next"`, `"query"` or
    `"null"`."""
    matched: tuple[str, ...]
    """What is held equal: of `count per head`, `shared over heads`, `segment`, `mass`, `persistence`,
    `queries per head`, `path`."""
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


@dataclass(frozen=True)
class Treated:
    """The parts of an edit that its controls are made of."""

    select: Selector
    action: Action
    queries: str
    """`Edit.queries`."""

    @property
    def sharing(self) -> tuple[str, ...]:
        """What a control of one set for all heads holds equal."""
        return ("shared over heads",) if shares_heads(self.select) else ()


def control_parts(treated: Treated, kind: str, *, seed: int) -> ControlParts:
    """Selector, action and description of the control `kind` of an edit.

    Raises:
        UsageError: the kind does not exist, or does not exist for this selector.
    """
    if kind not in _BUILDERS:
        raise unknown("control", kind, _BUILDERS)
    if treated.select.side == "queries" and kind != "null":
        raise UsageError(
            f"Got the {kind!r} control of {type(treated.select).__name__}, which chooses queries. Expected a "
            "selector of keys; compare with RandomQueries of the same budget in an arm of its own."
        )
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UsageError(f"Got seed={seed!r}. Expected a whole number.")
    select = treated.select
    if isinstance(select, Frozen) and kind != "null":
        inner = control_parts(replace(treated, select=select.select), kind, seed=seed)
        text = f"{inner.text}; chosen at step {select.step} and kept, like the treated keys"
        matched = tuple(dict.fromkeys((*inner.matched, "persistence")))
        return inner._replace(select=replace(select, select=inner.select), matched=matched, text=text)
    return _BUILDERS[kind](treated, seed)


def _count(treated: Treated, seed: int) -> ControlParts:
    drawn: Selector
    select = treated.select
    if isinstance(select, (TopMass, BottomMass, RandomKeys)):
        drawn = RandomKeys(
            keys_per_head=select.keys_per_head, shared_keys=select.shared_keys, seed=seed, exclude=select
        )
    else:
        drawn = MatchedRandom(select, seed=seed, by="count")
    text = "as many random keys in every row and head, never the keys the treatment would take there"
    return ControlParts(drawn, treated.action, ("count per head", *treated.sharing), text, seed)


def _segment(treated: Treated, seed: int) -> ControlParts:
    drawn = MatchedRandom(treated.select, seed=seed, by="segment")
    text = (
        "as many random keys of each segment (image, text ...) in every row and head, never the keys the "
        "treatment would take there"
    )
    return ControlParts(drawn, treated.action, ("count per head", "segment", *treated.sharing), text, seed)


def _mass(treated: Treated, seed: int) -> ControlParts:
    # The mass that the receipt of the treatment states.
    needed = set(treated.select.required_queries())
    own = needed.pop() if len(needed) == 1 else None
    drawn = MatchedMass(
        treated.select, seed=seed, queries=own if treated.queries == "all" else treated.queries
    )
    text = (
        "random keys that hold as much mass in every row and head (within 1 %, or as close as other keys "
        "come), of the same segments where these hold enough, never the keys the treatment would take there; "
        "their number differs"
    )
    return ControlParts(drawn, treated.action, ("mass",), text, seed)


def _persistence(treated: Treated, seed: int) -> ControlParts:
    drawn = StandIns(treated.select, seed=seed, by="segment")
    text = (
        "for every key the treatment would take a random other key of the same segment, the same one in all "
        "steps, so that the set changes as often as the treated one"
    )
    matched = ("count per head", "segment", "persistence", *treated.sharing)
    return ControlParts(drawn, treated.action, matched, text, seed)


def _bottom(treated: Treated, seed: int) -> ControlParts:
    select = _ranked("bottom", treated.select, "have an opposite")
    lowest = BottomMass(select.keys_per_head, select.shared_keys, select.queries, select.within)
    text = "as many keys in every row and head, those of smallest mass"
    return ControlParts(lowest, treated.action, ("count per head", *treated.sharing), text, None)


def _next(treated: Treated, seed: int) -> ControlParts:
    select = _ranked("next", treated.select, "have others ranked below")
    below = NextMass(select.keys_per_head, select.shared_keys, select.queries, select.within)
    text = "as many keys in every row and head, those ranked just below the ones the treatment would take"
    return ControlParts(below, treated.action, ("count per head", *treated.sharing), text, None)


def _query(treated: Treated, seed: int) -> ControlParts:
    select, group = treated.select, None if treated.queries == "all" else treated.queries
    chosen: Selector
    if isinstance(select, (TopMass, BottomMass, NextMass, RandomKeys)):
        chosen = TopConcentration(
            queries_per_head=select.keys_per_head, shared_queries=select.shared_keys, queries=group
        )
    else:
        chosen = MatchedQueries(select, queries=group)
    text = (
        "no key; in every row and head the output of as many queries, those whose attention is most "
        "concentrated, becomes the mean of the values, as if they attended to all keys alike"
    )
    return ControlParts(chosen, ReplaceOutput("mean_value"), ("queries per head",), text, None)


def _ranked(kind: str, select: Selector, have: str) -> TopMass:
    if not isinstance(select, TopMass):
        raise UsageError(
            f"Got the {kind!r} control of {type(select).__name__}. Expected TopMass: only keys chosen for "
            f"having the largest mass {have}. Use 'count' or 'segment'."
        )
    return select


def _null(treated: Treated, seed: int) -> ControlParts:
    text = "no key at all, but through the same masked kernel call: what the path itself changes"
    return ControlParts(NoKeys(), Mask(), ("path",), text, None)


_BUILDERS: dict[str, Callable[[Treated, int], ControlParts]] = {
    "count": _count,
    "segment": _segment,
    "mass": _mass,
    "persistence": _persistence,
    "bottom": _bottom,
    "next": _next,
    "query": _query,
    "null": _null,
}
