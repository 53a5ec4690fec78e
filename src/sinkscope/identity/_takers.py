"""Which segments and roles take over the mass that removed keys had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.identity._intervals import over_prompts
from sinkscope.identity._kinds import classes, kinds
from sinkscope.identity._origin import complete, numbered, prompts_and_seeds
from sinkscope.identity._shares import tally

NEEDED = ("arm", "step", "site", "edited", "removed", "gain", "mass_before", "mass_after")


def takers(
    takeover: pd.DataFrame,
    *,
    units: pd.DataFrame | None = None,
    by: Sequence[str] = ("branch",),
    parts: Sequence[str] = ("segment", "role"),
    level: float | None = 0.95,
    draws: int = 2000,
) -> pd.DataFrame:
    """Who loses and who gains when keys are removed.

    Args:
        takeover: `Run.takeover()` or `Receipt.takeover()`.
        units: `unit prompt_id seed`. None: every unit is its own prompt.
        by: What is told apart beside the arm: of `branch`, `layer`, `site`, `step`.
        parts: What makes a kind: of `segment`, `role`, `encoder`, `kind` and `class`.
        level: Confidence level of the intervals; None for none.
        draws: Bootstrap draws.

    Returns:
        One row per arm, combination of `by` and kind: `arm`, `by`, `parts`, `removed gain expected ci_low
        ci_high level n_prompts n_units`. `removed` is the share of the removed mass that this kind lost,
        `gain` the share of it that its untouched keys took over (below 0 where another edit took mass from
        them), `expected` the share they would have taken in proportion to the mass they had; each adds up to
        1. The interval belongs to `gain`. Units from which nothing was removed are left out.

    Raises:
        UsageError: A column is missing.
    """
    rows = complete(takeover, NEEDED)
    rows = rows.assign(**{"class": classes(rows), "kind": kinds(rows)})
    rows = prompts_and_seeds(complete(rows, [*by, *parts]), units)
    left = (rows["mass_before"] - rows["edited"]).to_numpy(float).clip(min=0.0)
    cell, cells = numbered(rows, ["arm", *by, "prompt_id", "unit"])
    kind, names = numbered(rows, list(parts))
    sums = {}
    for name, weight in (("removed", rows["removed"]), ("gain", rows["gain"]), ("expected", left)):
        sums[name] = tally(cell, len(cells), kind, len(names), np.asarray(weight, float))
    lost = sums["removed"].sum(axis=1) > 1e-9
    columns = ["arm", *by, *parts, "removed", "gain", "expected", "ci_low", "ci_high", "level"]
    tables = []
    group, groups = numbered(cells, ["arm", *by])
    for number in range(len(groups)):
        here = (group == number) & lost
        if here.any():
            told = _told(cells[here], {name: part[here] for name, part in sums.items()}, level, draws)
            first = groups.iloc[[number] * len(names)].reset_index(drop=True)
            tables.append(pd.concat([first, names, told], axis=1))
    if not tables:
        return pd.DataFrame(columns=[*columns, "n_prompts", "n_units"])
    table = pd.concat(tables, ignore_index=True)
    there = (table[["removed", "gain", "expected"]] != 0).any(axis=1)
    return table.loc[there, [*columns, "n_prompts", "n_units"]].reset_index(drop=True)


def _told(cells: pd.DataFrame, sums: dict[str, Any], level: float | None, draws: int) -> pd.DataFrame:
    prompt, prompts = numbered(cells, ["prompt_id"])
    means = {}
    for name, part in sums.items():
        shares = part / part.sum(axis=1, keepdims=True)
        means[name] = np.stack([shares[prompt == index].mean(axis=0) for index in range(len(prompts))])
    _, low, high = over_prompts(means["gain"].T, list(prompts["prompt_id"]), level, draws)
    told = pd.DataFrame({name: part.mean(axis=0) for name, part in means.items()})
    return told.assign(
        ci_low=low,
        ci_high=high,
        level=np.nan if level is None else level,
        n_prompts=len(prompts),
        n_units=len(cells),
    )
