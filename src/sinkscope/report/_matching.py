"""What a comparison with a control may be called, from how closely that control matched.

Only an effect that differs from a control which took as many keys, of as much mass, in the same segments, is
called specific to sinks. In every other case the page names what differed, so that a difference in mass or in
kind of token is not read as a property of sinks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sinkscope.report import _metrics as metrics
from sinkscope.report._format import NOT_AVAILABLE, is_missing, listing, number, percent
from sinkscope.report._tables import Table

Row = Mapping[Any, Any]
CLAIMED = ("count", "mass", "segment")
"""Properties that have to match before an effect is called specific to sinks."""


@dataclass(frozen=True)
class Match:
    """How one control compares with its treatment; empty lists where nothing is known."""

    known: bool = False
    differs: list[str] = field(default_factory=list)
    """Properties of `CLAIMED` that are not matched, or not measured."""
    ratios: dict[str, float] = field(default_factory=dict)
    """`count`, `mass` -> control over treated."""
    shares: list[tuple[str, float, float]] = field(default_factory=list)
    """Segments whose share differs: name, treated, control."""

    @property
    def full(self) -> bool:
        """Whether number, mass and segment are all matched."""
        return self.known and not self.differs


def match_of(matches: pd.DataFrame | None, arm: str, reference: str) -> Match:
    """What the table of matches says about one contrast."""
    if matches is None:
        return Match()
    rows = matches[(matches["arm"] == arm) & (matches["reference"] == reference)].to_dict("records")
    if not rows:
        return Match()
    parts = {name: [row for row in rows if row["property"] == name] for name in CLAIMED}
    differs = [name for name, found in parts.items() if not found or not all(r["matched"] for r in found)]
    ratios = {
        name: float(found[0]["ratio"])
        for name, found in parts.items()
        if name != "segment" and found and not is_missing(found[0]["ratio"])
    }
    shares = [
        (str(row["segment"]), float(row["treated"]), float(row["control"]))
        for row in parts["segment"]
        if not row["matched"] and not is_missing(row["treated"]) and not is_missing(row["control"])
    ]
    return Match(True, differs, ratios, shares)


def verdict(rows: Sequence[Row], matches: pd.DataFrame | None) -> str:
    """What the effects that differ from their control show about sinks; empty where none does.

    Args:
        rows: Contrasts of an edit with its controls, as in `effects`.
        matches: `Run.matches()`, or None where the run has none.
    """
    claimed = [row for row in rows if row["verdict"] == "different" and not _closer(row)]
    pairs = list(dict.fromkeys((str(row["arm"]), str(row["reference"])) for row in claimed))
    if not pairs:
        return ""
    found = {pair: match_of(matches, *pair) for pair in pairs}
    full = [pair for pair, match in found.items() if match.full]
    if len(full) == len(pairs):
        return (
            "This is specific to sinks: the control took as many keys, of as much mass, in the same segments."
        )
    rest = _why_not([match for match in found.values() if not match.full])
    if not full:
        return f"{rest}, so this does not show that being a sink matters."
    names = listing([f"{arm} against {reference}" for arm, reference in full])
    return (
        f"Specific to sinks is the difference in {names}, where the control took as many keys, of as much "
        f"mass, in the same segments. Elsewhere: {rest[:1].lower()}{rest[1:]}, which does not show that "
        "being a sink matters."
    )


def _closer(row: Row) -> bool:
    """Nearer to the baseline image than the control is: no claim about sinks is made of that."""
    return float(row["effect"]) * metrics.words(str(row["metric"])).away < 0


def _why_not(several: Sequence[Match]) -> str:
    if not all(match.known for match in several):
        return "How closely the control matches was not measured"
    said = []
    for name, noun in (("mass", "mass"), ("count", "")):
        ratios = [match.ratios.get(name) for match in several if name in match.differs]
        if ratios:
            said.append(_amount(ratios, noun))
    if any("segment" in match.differs for match in several):
        said.append(_segments(several))
    return "The keys of the control " + listing(said)


def _amount(ratios: Sequence[float | None], noun: str) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    held = "held" if noun else "were"
    if not known:
        return f"{held} an unknown {noun or 'number'}"
    if all(abs(ratio - 1) <= 0.05 for ratio in known):
        return (
            f"held as much {noun} on average but not call by call" if noun else "were as many on average only"
        )
    if min(known) == 0:
        return f"held no {noun}" if noun else "were none"
    less = [1 / ratio for ratio in known if ratio < 1]
    more = [ratio for ratio in known if ratio > 1]
    parts = [
        _times(less, f"less {noun}" if noun else "fewer"),
        _times(more, f"more {noun}" if noun else "more"),
    ]
    return f"{held} " + " or ".join(part.strip() for part in parts if part)


def _times(factors: Sequence[float], word: str) -> str:
    if not factors:
        return ""
    low, high = f"{min(factors):.1f}", f"{max(factors):.1f}"
    if high == "1.0":
        return f"slightly {word}"
    return f"{low} times {word}" if low == high else f"{low} to {high} times {word}"


def _segments(several: Sequence[Match]) -> str:
    shares = [share for match in several for share in match.shares]
    if not shares:
        return "lay in segments that were not recorded"
    name, treated, control = max(shares, key=lambda share: abs(share[1] - share[2]))
    return f"lay in other segments ({percent(control)} in {name}, the sinks {percent(treated)})"


def table(matches: pd.DataFrame | None) -> Table | None:
    """Treated against control for every contrast and property; None where the run has no such table."""
    if matches is None:
        return None
    rows = [
        [
            f"{row['arm']} against {row['reference']}",
            _property(row),
            _value(row, "treated"),
            _value(row, "control"),
            NOT_AVAILABLE if is_missing(row["ratio"]) else number(row["ratio"]),
            NOT_AVAILABLE if is_missing(row["in_call"]) else percent(row["in_call"]),
            f"yes, within {percent(row['tolerance'])}" if row["matched"] else "no",
        ]
        for row in matches.to_dict("records")
    ]
    columns = ["edit and control", "property", "sinks", "control", "ratio", "off in its calls", "matched"]
    return Table(columns, rows, frozenset({2, 3, 4, 5}))


def _property(row: Row) -> str:
    words = {
        "count": "keys per head",
        "mass": "mass of the keys",
        "segment": f"share in {row['segment']}",
        "persistence": "kept from the step before",
    }
    return words.get(str(row["property"]), str(row["property"]))


def _value(row: Row, side: str) -> str:
    if is_missing(row[side]):
        return NOT_AVAILABLE
    return number(row[side]) if row["property"] == "count" else percent(row[side])
