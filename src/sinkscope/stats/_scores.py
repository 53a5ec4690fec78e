"""The long table of scores, checked, and its complete cases averaged over seeds within each prompt.

A unit is complete for some arms when every one of them has a usable score. Incomplete units are left out of
that comparison, always counted, and refused when too many are gone: a run that lost a fifth of its images is
not a result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sinkscope.errors import NonFiniteError, UsageError, unknown

from ._bootstrap import Floats

COLUMNS = ("unit", "prompt_id", "task", "arm", "metric", "value", "status")
"""Columns that the analysis needs; others (`prompt`, `seed`, ...) may be there."""

LEAST_PAIRS = 0.98
"""Share of complete units below which an analysis is refused."""


@dataclass(frozen=True)
class Scores:
    """Scores by metric and arm, aligned on the sorted units of the whole table."""

    units: NDArray[np.str_]
    prompt: NDArray[np.str_]
    task: NDArray[np.str_]
    arms: tuple[str, ...]
    metrics: tuple[str, ...]
    values: dict[tuple[str, str], Floats]
    """`(metric, arm)` -> `[unit]`, NaN where there is no usable score."""
    status: dict[tuple[str, str], NDArray[np.str_]]
    """`(metric, arm)` -> `[unit]`, "no row" where the table has none."""

    def scored(self, metric: str, arms: tuple[str, ...]) -> bool:
        """Say whether every one of `arms` was scored with `metric` at all."""
        return all((metric, arm) in self.values for arm in arms)

    def is_binary(self, metric: str) -> bool:
        """Say whether every score of `metric` in the table, of any arm, is 0 or 1."""
        columns = [column for (name, _), column in self.values.items() if name == metric]
        return all(np.isin(column[np.isfinite(column)], (0.0, 1.0)).all() for column in columns)


class Complete(NamedTuple):
    """Complete cases of some arms for one metric and one task ("all" for every task)."""

    values: Floats
    """`[arm, prompt]`, averaged over the complete seeds of each prompt."""
    prompts: tuple[str, ...]
    n_units: int
    missing: int
    """Units left out."""
    reasons: str
    """Why, as "3 truncated, 1 no row"; empty when nothing is missing."""
    seeds: Floats = np.empty(0)
    """Complete seeds of each prompt `[prompt]`."""


def read_scores(table: pd.DataFrame) -> Scores:
    """Check a long table of scores and align it on its units.

    Raises:
        UsageError: A column is missing, a (unit, arm, metric) occurs twice, a unit has two prompts or tasks,
            a task is called "all", or nothing is in the table.
        NonFiniteError: A row says "ok" but its value is NaN or infinite.
    """
    if absent := [column for column in COLUMNS if column not in table.columns]:
        raise UsageError(
            f"Scores lack the columns {', '.join(absent)}. Got {', '.join(map(str, table.columns))}."
        )
    if table.empty:
        raise UsageError("The table of scores is empty. Run the scoring stage first.")
    if (double := table.duplicated(["unit", "arm", "metric"])).any():
        row = table[double].iloc[0]
        raise UsageError(
            f"{int(double.sum())} scores occur twice, the first for unit {row['unit']!r}, "
            f"arm {row['arm']!r}, metric {row['metric']!r}. Keep one row per unit, arm and metric."
        )
    good = (table["status"] == "ok").to_numpy()
    value = table["value"].to_numpy(dtype=np.float64, na_value=np.nan)
    if (bad := good & ~np.isfinite(value)).any():
        row = table[bad].iloc[0]
        raise NonFiniteError(
            f"{int(bad.sum())} scores are marked ok but are not finite, the first for unit {row['unit']!r}, "
            f"arm {row['arm']!r}, metric {row['metric']!r}. "
            "Score again; a failed score carries its reason as status."
        )
    if (table["task"] == "all").any():
        raise UsageError('A task is called "all", the name of the rows over every task. Rename the task.')
    return _align(table.assign(value=np.where(good, value, np.nan)))


def complete(scores: Scores, metric: str, arms: tuple[str, ...], task: str = "all") -> Complete:
    """Return the complete cases of `arms`; no prompt is left when one of them was never scored with
    `metric`.
    """
    chosen = np.ones(scores.units.size, dtype=bool) if task == "all" else scores.task == task
    nothing = np.full(scores.units.size, np.nan)
    stack = np.stack([scores.values.get((metric, arm), nothing) for arm in arms])
    ok = np.isfinite(stack).all(axis=0) & chosen
    lost = chosen & ~ok
    prompts, code = np.unique(scores.prompt[ok], return_inverse=True)
    count = np.bincount(code, minlength=prompts.size)
    sums = np.stack([np.bincount(code, weights=row[ok], minlength=prompts.size) for row in stack])
    return Complete(
        values=sums / np.maximum(count, 1),
        prompts=tuple(prompts.tolist()),
        n_units=int(ok.sum()),
        missing=int(lost.sum()),
        reasons=_reasons(scores, metric, arms, lost),
        seeds=count.astype(np.float64),
    )


class Gate:
    """Keeps comparisons with too many gaps out of a table, and refuses a table in which nothing else is left.

    Args:
        least_pairs: Share of the units that must be complete.
    """

    def __init__(self, least_pairs: float) -> None:
        self._least, self._refused, self._passed = least_pairs, list[str](), 0

    def has_gaps(self, case: Complete) -> bool:
        """Say whether fewer than the share `least_pairs` of the units is complete."""
        return case.n_units < self._least * (case.n_units + case.missing)

    def admit(self, case: Complete, *, what: str, scored: bool) -> tuple[Complete, str]:
        """Return the case and no reason, or without its values and the reason why it is refused.

        Args:
            case: Over all prompts.
            what: What it is for, at the start of the error.
            scored: False where an arm has no score at all, which is no gap but stated by the case itself.
        """
        if not scored:
            return case, ""
        if not self.has_gaps(case):
            self._passed += 1
            return case, ""
        total = case.n_units + case.missing
        self._refused.append(
            f"{what}: {case.n_units} of {total} units have every score ({case.n_units / total:.1%}), "
            f"expected at least {self._least:.0%}. Missing: {case.reasons}. Score those units again, "
            "or pass least_pairs= to analyse what is there."
        )
        nothing = case._replace(values=case.values[:, :0], prompts=(), seeds=case.seeds[:0])
        return nothing, f"refused: at least {self._least:.0%} of the pairs must be complete"

    def close(self) -> None:
        """Raise `NonFiniteError` when everything that was scored has been refused."""
        if self._refused and not self._passed:
            more = len(self._refused) - 1
            raise NonFiniteError(self._refused[0] + (f" So it is with {more} more." if more else ""))


def check_names(kind: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raise for the first of `names` that is not `known`."""
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def _align(table: pd.DataFrame) -> Scores:
    text = table.astype({column: str for column in ("unit", "prompt_id", "task", "arm", "metric", "status")})
    about = text[["unit", "prompt_id", "task"]].drop_duplicates().sort_values("unit", kind="stable")
    if (twice := about["unit"].duplicated()).any():
        raise UsageError(
            f"Unit {about[twice]['unit'].iloc[0]!r} has two prompts or tasks, expected one of each."
        )
    tasks_of = about.groupby("prompt_id")["task"].nunique()
    if (tasks_of > 1).any():
        raise UsageError(f"Prompt {tasks_of.idxmax()!r} belongs to {tasks_of.max()} tasks, expected one.")
    units = about["unit"].to_numpy(dtype=np.str_)
    values, status = {}, {}
    for (metric, arm), rows in text.groupby(["metric", "arm"], sort=False):
        at = np.searchsorted(units, rows["unit"].to_numpy(dtype=np.str_))
        column = np.full(units.size, np.nan)
        column[at] = rows["value"].to_numpy(dtype=np.float64)
        why = np.full(units.size, "no row", dtype=object)
        why[at] = rows["status"].to_numpy(dtype=object)
        values[str(metric), str(arm)], status[str(metric), str(arm)] = column, why.astype(np.str_)
    return Scores(
        units=units,
        prompt=about["prompt_id"].to_numpy(dtype=np.str_),
        task=about["task"].to_numpy(dtype=np.str_),
        arms=tuple(dict.fromkeys(text["arm"])),
        metrics=tuple(dict.fromkeys(text["metric"])),
        values=values,
        status=status,
    )


def _reasons(scores: Scores, metric: str, arms: tuple[str, ...], lost: NDArray[np.bool_]) -> str:
    """Count why each lost unit is lost, by its first arm without a score."""
    seen: Counter[str] = Counter()
    for index in np.flatnonzero(lost):
        for arm in arms:
            if (metric, arm) not in scores.values:
                seen[f"arm {arm} was never scored"] += 1
                break
            if not np.isfinite(scores.values[metric, arm][index]):
                seen[str(scores.status[metric, arm][index])] += 1
                break
    shown = [f"{count} {reason}" for reason, count in seen.most_common(3)]
    return ", ".join(shown + (["..."] if len(seen) > 3 else []))
