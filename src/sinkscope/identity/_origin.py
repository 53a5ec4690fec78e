"""Columns that say where a row comes from, made complete; and which prompt and seed a unit is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sinkscope.errors import UsageError

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
OBSERVED = "observed"
"""Arm of a table that has no column `arm`: an observation outside a study."""
_FILL: dict[str, Any] = {
    "arm": OBSERVED,
    "queries": "",
    "evaluation": 0,
    "branch": "none",
    "unit": "",
    "repeat": 0,
}


def complete(frame: pd.DataFrame, needed: Sequence[str]) -> pd.DataFrame:
    """The table with the columns arm, queries, evaluation, branch, unit and repeat.

    Raises:
        UsageError: A needed column is missing.
    """
    lost = [name for name in needed if name not in frame.columns]
    if lost:
        raise UsageError(
            f"Got a table without the columns {', '.join(lost)}; it has "
            f"{', '.join(map(str, frame.columns))}. Expected a table of sinkscope, such as "
            "Run.traces() or Observation.sinks()."
        )
    missing = {name: value for name, value in _FILL.items() if name not in frame.columns}
    # Sites that fold nothing into their rows have no number there.
    repeat = {"repeat": frame["repeat"].fillna(0)} if "repeat" in frame.columns else {}
    return frame.assign(**missing, **repeat)


def prompts_and_seeds(frame: pd.DataFrame, units: pd.DataFrame | None) -> pd.DataFrame:
    """The table with the columns prompt_id and seed.

    Args:
        frame: Any table with the column `unit`.
        units: `unit prompt_id seed`, one row per unit. None: every unit is its own prompt.

    Raises:
        UsageError: A unit of the table is not among the units.
    """
    named = frame["unit"].astype(str)
    if units is None:
        return frame.assign(prompt_id=named, seed=0)
    known = units.assign(unit=units["unit"].astype(str)).drop_duplicates("unit").set_index("unit")
    lost = sorted(set(named) - set(known.index))
    if lost:
        raise UsageError(f"Unknown unit {lost[0]!r} in the table: it is not among the {len(known)} units.")
    return frame.assign(prompt_id=named.map(known["prompt_id"].astype(str)), seed=named.map(known["seed"]))


def numbered(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[Places, pd.DataFrame]:
    """A number for each distinct combination of some columns, and the combinations in that order."""
    groups = frame.groupby(list(columns), sort=True, dropna=False, observed=True)
    codes = np.asarray(groups.ngroup(), dtype=np.int64)
    _, first = np.unique(codes, return_index=True)
    return codes, frame[list(columns)].iloc[first].reset_index(drop=True)
