"""The part of the page about who the sinks are: answers, figures, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sinkscope.identity import CLASSES
from sinkscope.report import _dynamics as dynamics
from sinkscope.report._arms import Arm
from sinkscope.report._canvas import Drawing
from sinkscope.report._data import RunData
from sinkscope.report._fig_identity import identity_panels, overlap_panels, takeover_bars
from sinkscope.report._format import NOT_AVAILABLE, is_missing, percent, times
from sinkscope.report._identity_facts import Facts
from sinkscope.report._identity_words import replaced, span, stays, who
from sinkscope.report._sinks import BRANCH_WORDS
from sinkscope.report._tables import Table


def section(data: RunData, arms: Mapping[str, Arm], picture: Callable[[Drawing, str], Any]) -> dict[str, Any]:
    """What the template of this part needs."""
    facts = Facts(data, arms)
    figures = [(words, picture(figure, name)) for name, words, figure in _figures(facts)]
    return {
        "findings": [who(facts), stays(facts), replaced(facts)],
        "figures": figures,
        "kinds": _kinds(facts) if facts.sinks is not None else None,
        "classes": "; ".join(
            f"{name}: {', '.join(role for role in CLASSES if CLASSES[role] == name)}"
            for name in dict.fromkeys(CLASSES.values())
        ),
        "balanced": facts.roles is not None,
    }


def figures(data: RunData, arms: Mapping[str, Arm]) -> dict[str, Callable[[], Figure]]:
    """The figures of this part by file name, drawn when called."""
    facts = Facts(data, arms)
    made: dict[str, Callable[[], Figure]] = {}
    if facts.sinks is not None:
        for branch in facts.branches:
            made[f"identity_{branch}"] = partial(_panels, facts, branch)
        made["overlap"] = lambda: overlap_panels(facts.pairs, facts.overlaps)
    if facts.takers is not None:
        taken = facts.takers
        made["takeover"] = lambda: takeover_bars(taken)
    return made


def _figures(facts: Facts) -> list[tuple[str, str, Drawing]]:
    found = []
    if facts.sinks is not None:
        for branch in facts.branches:
            words = f"Shares over steps and layers, {BRANCH_WORDS.get(branch, branch)}"
            found.append((f"identity-{branch}", words, _panels(facts, branch)))
        agreement = overlap_panels(facts.pairs, facts.overlaps)
        found.append(("overlap", "Agreement of the sets of sinks", agreement))
    if facts.takers is not None:
        found.append(("takeover", "Who takes the removed mass over", takeover_bars(facts.takers)))
    return found


def _panels(facts: Facts, branch: str) -> Drawing:
    return identity_panels(facts.over_steps, branch=branch)


def _kinds(facts: Facts) -> Table:
    """Every kind of key in every branch: shares of keys, sinks and mass."""
    shares = facts.kinds
    rows = []
    for branch in facts.branches:
        here = shares[shares["branch"] == branch]
        for kind in dynamics.kind_order(here["kind"]):
            part = here[here["kind"] == kind]
            sinks = _cell(part, "sinks")
            cells = [f"{kind} ({branch})", percent(_value(part, "keys")), percent(sinks.get("share"))]
            cells += [span(sinks.get("ci_low"), sinks.get("ci_high")), _times(sinks.get("times_keys"))]
            cells += [percent(_value(part, "sink mass")), percent(_value(part, "mass", "balanced"))]
            rows.append(cells)
    columns = ["segment and role", "of keys", "of sinks", "95 % interval", "sinks / keys", "of sink mass"]
    return Table([*columns, "of all mass, balanced"], rows, frozenset(range(1, 7)))


def _cell(rows: pd.DataFrame, of: str, queries: str | None = None) -> dict[Any, Any]:
    found = rows[rows["of"] == of]
    found = found if queries is None else found[found["queries"] == queries]
    return dict(found.iloc[0]) if len(found) else {}


def _value(rows: pd.DataFrame, of: str, queries: str | None = None) -> Any:
    return _cell(rows, of, queries).get("share")


def _times(value: Any) -> str:
    return NOT_AVAILABLE if is_missing(value) else times(value)
