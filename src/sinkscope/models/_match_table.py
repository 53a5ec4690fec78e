"""How closely a control matched its treatment, from the receipts of both.

Two comparisons, since the two arms see different calls once their edits have acted. Between the arms: the
mean over all steps, branches, units, sites and heads of what each of them edited. Within the control's calls:
what it edited against what the treatment would have edited in the very same call. A property is matched when
both agree within the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sinkscope.errors import UsageError

TOLERANCE = 0.05
"""Relative for numbers of keys and mass, absolute for shares."""
MATCH_COLUMNS = (
    "property",
    "segment",
    "treated",
    "control",
    "ratio",
    "in_call",
    "tolerance",
    "matched",
    "calls",
)
_NEEDED = ("keys", "mass_before")


def match_table(
    treated: pd.DataFrame, control: pd.DataFrame, *, tolerance: float = TOLERANCE
) -> pd.DataFrame:
    """Treated against control, property by property.

    Args:
        treated: `Receipt.table()` of the edit (or its rows of a run's `receipts`).
        control: The same of its control.
        tolerance: Largest difference that counts as matched: relative for `count` and `mass`, absolute for
            the shares `segment` and `persistence`.

    Returns:
        `property segment treated control ratio in_call tolerance matched calls`, means per call and head.
        `property` is `count` (keys edited), `mass` (mass they held before the edit), `segment` (share of the
        edited keys that lie in `segment`, one row for each) or `persistence` (share of the edited keys, or
        queries, that were edited in the step before too; only where either arm has several steps). `ratio` is
        control over treated. `in_call` is, in the control's calls, the mean absolute difference to what the
        treatment would have taken there, relative to that; NaN where receipts cannot tell. `calls` counts the
        rows behind the mean of the control.

    Raises:
        UsageError: an empty table, or one that is no table of receipts.
    """
    for name, frame in (("treated", treated), ("control", control)):
        lost = [column for column in _NEEDED if column not in frame.columns]
        if lost or frame.empty:
            raise UsageError(
                f"The receipts of the {name} edit {'lack ' + ', '.join(lost) if lost else 'have no rows'}. "
                "Expected Receipt.table() of a block in which the edit acted."
            )
    rows = [
        _amount("count", "keys", "treated_keys", treated, control, tolerance),
        _amount("mass", "mass_before", "treated_mass", treated, control, tolerance),
        *_segments(treated, control, tolerance),
        *_persistence(treated, control, tolerance),
    ]
    return pd.DataFrame(rows, columns=list(MATCH_COLUMNS))


def _amount(
    name: str, column: str, own: str, treated: pd.DataFrame, control: pd.DataFrame, tolerance: float
) -> dict[str, object]:
    first, second = float(treated[column].mean()), float(control[column].mean())
    ratio = second / first if first else float("nan")
    in_call = _in_call(control, column, own)
    same = first == second or abs(ratio - 1) <= tolerance
    return {
        "property": name,
        "segment": "",
        "treated": first,
        "control": second,
        "ratio": ratio,
        "in_call": in_call,
        "tolerance": tolerance,
        "matched": bool(same and not in_call > tolerance),
        "calls": int(control[column].notna().sum()),
    }


def _in_call(control: pd.DataFrame, column: str, own: str) -> float:
    if own not in control.columns:
        return float("nan")
    told = control[[column, own]].dropna()
    total = float(told[own].abs().sum())
    return float((told[column] - told[own]).abs().sum()) / total if total else float("nan")


def _segments(treated: pd.DataFrame, control: pd.DataFrame, tolerance: float) -> Iterator[dict[str, object]]:
    names = [
        str(name)
        for name in dict.fromkeys((*treated.columns, *control.columns))
        if str(name).startswith("keys_")
    ]
    for name in names:
        first, second = _share(treated, name), _share(control, name)
        if first == second == 0.0:
            continue
        yield _shares("segment", name.removeprefix("keys_"), first, second, tolerance, len(control))


def _share(frame: pd.DataFrame, name: str) -> float:
    # Per call and head first: a control of other numbers of keys would else count its large sets more.
    acted = frame[frame["keys"] > 0]
    if acted.empty:
        return float("nan")
    return float((acted[name] / acted["keys"]).mean()) if name in frame.columns else 0.0


def _persistence(
    treated: pd.DataFrame, control: pd.DataFrame, tolerance: float
) -> Iterator[dict[str, object]]:
    if "kept" not in treated.columns or "kept" not in control.columns:
        return
    first, second = float(treated["kept"].mean()), float(control["kept"].mean())
    if not (np.isnan(first) and np.isnan(second)):
        calls = int(control["kept"].notna().sum())
        yield _shares("persistence", "", first, second, tolerance, calls)


def _shares(
    name: str, segment: str, first: float, second: float, tolerance: float, calls: int
) -> dict[str, object]:
    return {
        "property": name,
        "segment": segment,
        "treated": first,
        "control": second,
        "ratio": second / first if first else float("nan"),
        "in_call": float("nan"),
        "tolerance": tolerance,
        # A missing share is not a matched one.
        "matched": bool(abs(second - first) <= tolerance),
        "calls": calls,
    }
