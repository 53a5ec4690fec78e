"""Shares of sinks, and shares of mass, by segment and role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sinkscope.errors import UsageError
from sinkscope.identity._intervals import over_prompts
from sinkscope.identity._kinds import classes, kinds
from sinkscope.identity._origin import Floats, Places, complete, numbered, prompts_and_seeds

BALANCED = "balanced"
"""Query group of a mass in which every stream of queries weighs the same."""
PLACE = ["arm", "evaluation", "branch", "unit", "repeat", "step", "site"]


def identity(
    sinks: pd.DataFrame | None = None,
    roles: pd.DataFrame | None = None,
    *,
    units: pd.DataFrame | None = None,
    by: Sequence[str] = ("branch",),
    parts: Sequence[str] = ("segment", "role"),
    level: float | None = 0.95,
    draws: int = 2000,
) -> pd.DataFrame:
    """Which kinds of keys the sinks are, which kinds hold the mass, and how many keys of each kind there are.

    Args:
        sinks: `Run.traces()` or `Observation.sinks()`.
        roles: `Run.roles()` or `Observation.roles()`. At least one of both.
        units: `unit prompt_id seed`. None: every unit is its own prompt.
        by: What is told apart: of `branch`, `layer`, `site`, `step`, `head` (sinks only) and other columns.
        parts: What makes a kind: of `segment`, `role`, `encoder`, `kind` (`text: pad`) and `class` (padding,
            structure, content, image).
        level: Confidence level of the intervals; None for none.
        draws: Bootstrap draws.

    Returns:
        One row per arm, measure, query group, combination of `by` and kind: `arm of queries`, `by`, `parts`,
        `share ci_low ci_high level times_keys excess_low excess_high n_prompts n_units`. `of` is `sinks`
        (share of the sinks, each counted once), `sink mass` (share of the mass of the sinks), `mass` (share
        of the mass of all keys) or `keys` (share of the keys). `queries` says whose attention it is; for
        `mass` every stream of queries and `balanced`, the mean of the streams, in which many image queries do
        not decide alone. `times_keys` is the share over the share of keys, and `excess_*` the interval of the
        share minus the share of keys, unit by unit (0 inside: no more than their number would make them); NaN
        without `roles`. Shares add up to 1 within a measure, query group and combination.

    Raises:
        UsageError: Neither table was given, or one lacks a column that was asked for.
    """
    found: list[pd.DataFrame] = []
    settings: dict[str, Any] = {"by": list(by), "parts": list(parts), "level": level, "draws": draws}
    keys: pd.DataFrame | None = None
    for of, rows, weight in _measures(sinks, roles, units, [*by, *parts]):
        table, each = _shares(of, rows, weight, keys, **settings)
        keys = each if of == "keys" else keys
        found.append(table)
    if not found:
        raise UsageError("Got neither sinks nor roles. Expected Run.traces(), Run.roles() or both.")
    # The keys come first, because the others are compared with them, and are told last.
    return _with_keys(
        pd.concat([*found[keys is not None :], *found[: keys is not None]]), list(by), list(parts)
    )


def _measures(
    sinks: pd.DataFrame | None, roles: pd.DataFrame | None, units: pd.DataFrame | None, needed: Sequence[str]
) -> Iterator[tuple[str, pd.DataFrame, Floats]]:
    """Name, rows and the weight of each row of every measure."""
    if roles is not None and len(roles):
        kept = _described(roles, units, ("step", "site", "mass", "keys"), [n for n in needed if n != "head"])
        yield "keys", kept.assign(queries=""), kept["keys"].to_numpy(float)
    if sinks is not None and len(sinks):
        rows = _described(sinks, units, ("step", "site", "mass"), needed)
        yield "sinks", rows, np.ones(len(rows))
        yield "sink mass", rows, rows["mass"].to_numpy(float)
    if roles is not None and len(roles):
        mass = kept["mass"].to_numpy(float)
        yield "mass", kept, mass
        yield "mass", kept.assign(queries=BALANCED), mass / _streams(kept)


def _described(
    frame: pd.DataFrame, units: pd.DataFrame | None, needed: Sequence[str], asked: Sequence[str]
) -> pd.DataFrame:
    rows = frame[frame["mass"].notna()] if "mass" in frame.columns else frame
    rows = rows.assign(**{"class": classes(rows), "kind": kinds(rows)})
    return prompts_and_seeds(complete(rows, [*needed, *asked]), units)


def _streams(rows: pd.DataFrame) -> Floats:
    """For each row, how many streams of queries its place was measured for."""
    place, _ = numbered(rows, PLACE)
    stream, _ = numbered(rows, ["queries"])
    pairs = np.unique(np.stack([place, stream]), axis=1)[0]
    return np.bincount(pairs)[place].astype(float)


def _shares(
    of: str,
    rows: pd.DataFrame,
    weight: Floats,
    keys: pd.DataFrame | None,
    *,
    by: list[str],
    parts: list[str],
    level: float | None,
    draws: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of one measure, and the share of each unit."""
    by = [name for name in by if name in rows.columns]
    cell, cells = numbered(rows, ["arm", "queries", *by, "prompt_id", "unit"])
    kind, names = numbered(rows, parts)
    shares, told = _normal(tally(cell, len(cells), kind, len(names), weight))
    cells, shares = cells[told].reset_index(drop=True), shares[told]
    each = _crossed(cells, names).assign(share=shares.ravel())
    prompt, prompts = numbered(cells, ["arm", "queries", *by, "prompt_id"])
    group, groups = numbered(prompts, ["arm", "queries", *by])
    over = shares if keys is None or level is None else shares - _of_keys(cells, names, keys, by, parts)
    stack = np.stack([_means(part, prompt, len(prompts)) for part in (shares, over)])
    values = np.full((6, len(groups), len(names)), np.nan)
    values[0] = _means(stack[0], group, len(groups))
    for number in range(len(groups)) if level is not None else ():
        here = group == number
        both = np.concatenate(stack[:, here].transpose(0, 2, 1))
        found = over_prompts(both, list(prompts["prompt_id"][here]), level, draws)
        values[:, number] = found.reshape(3, 2, -1).transpose(1, 0, 2).reshape(6, -1)
    units = np.bincount(numbered(cells, ["arm", "queries", *by])[0], minlength=len(groups))
    counted = groups.assign(n_prompts=np.bincount(group, minlength=len(groups)), n_units=units)
    if keys is None:
        values[3:] = np.nan
    ends = dict(zip(_ENDS, (part.ravel() for part in values), strict=True))
    ends.pop("excess")
    table = _crossed(counted, names).assign(**ends, of=of, level=np.nan if level is None else level)
    return table, each


_ENDS = ("share", "ci_low", "ci_high", "excess", "excess_low", "excess_high")


def _crossed(left: pd.DataFrame, names: pd.DataFrame) -> pd.DataFrame:
    """Every row of `left` with every kind."""
    rows = left.loc[left.index.repeat(len(names))].reset_index(drop=True)
    return pd.concat([rows, pd.concat([names] * len(left), ignore_index=True)], axis=1)


def _of_keys(
    cells: pd.DataFrame, names: pd.DataFrame, keys: pd.DataFrame, by: list[str], parts: list[str]
) -> Floats:
    """The share of the keys `[cell, kind]`, unit by unit; NaN-free: kinds that a unit lacks have none."""
    place = [name for name in ("arm", *by, "unit", *parts) if name in keys.columns]
    told = _crossed(cells, names)[place].merge(keys[[*place, "share"]], on=place, how="left", sort=False)
    return np.asarray(told["share"].fillna(0.0).to_numpy(float).reshape(len(cells), len(names)))


def tally(cell: Places, cells: int, kind: Places, names: int, weight: Floats) -> Floats:
    """Sums of weights `[cell, kind]`."""
    flat = np.bincount(cell * names + kind, weights=weight, minlength=cells * names)
    return flat.astype(float).reshape(cells, names)


def _normal(sums: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Rows that sum to one, and which rows hold anything."""
    totals = sums.sum(axis=1, keepdims=True)
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0), totals[:, 0] > 0


def _means(values: Floats, group: Places, count: int) -> Floats:
    """Means `[group, kind]` of values `[row, kind]`."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, group, values)
    return np.asarray(sums / np.bincount(group, minlength=count)[:, None])


def _with_keys(table: pd.DataFrame, by: list[str], parts: list[str]) -> pd.DataFrame:
    """Add the share over the share of keys, and leave out kinds that a combination does not have."""
    place = ["arm", *by, *parts]
    keys = table.loc[table["of"] == "keys", [*(n for n in place if n in table.columns), "share"]]
    # Nothing but sinks is told apart by head.
    keys = keys.drop(columns=[name for name in by if keys[name].isna().all()])
    shared = [name for name in keys.columns if name != "share"]
    table = table.merge(keys.rename(columns={"share": "of_keys"}), on=shared, how="left", sort=False)
    ratio = table["share"].to_numpy(float) / table["of_keys"].where(table["of_keys"] > 0).to_numpy(float)
    table["times_keys"] = ratio
    there = table.groupby(place, dropna=False, observed=True)["share"].transform("max") > 0
    order = [
        "arm",
        "of",
        "queries",
        *by,
        *parts,
        "share",
        "ci_low",
        "ci_high",
        "level",
        "times_keys",
        "excess_low",
        "excess_high",
    ]
    return table.loc[there, [*order, "n_prompts", "n_units"]].reset_index(drop=True)
