"""How far sets of sinks agree between steps, layers, branches, seeds and prompts, beside chance.

Keys are compared by their index along the key axis: the same place in the sequence, not the same word.
Between steps, branches, seeds and prompts the sets of the same head are compared; between layers, whose heads
do not correspond, the sets of all heads together, and only layers whose sites see the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sinkscope.identity._intervals import over_prompts
from sinkscope.identity._origin import Floats, complete, numbered, prompts_and_seeds
from sinkscope.identity._pairs import MEASURES, Pairs, compare

BETWEEN = ("next step", "steps", "layers", "branches", "seeds", "prompts")


class _Comparison(NamedTuple):
    between: str
    item: str
    cell: tuple[str, ...]
    fold: tuple[str, ...]


_COMPARISONS = (
    _Comparison("steps", "step", ("branch", "site", "prompt_id", "unit"), ("evaluation", "repeat", "head")),
    _Comparison("layers", "site", ("branch", "space", "prompt_id", "unit"), ("evaluation", "repeat", "step")),
    _Comparison(
        "branches", "branch", ("site", "prompt_id", "unit"), ("evaluation", "repeat", "step", "head")
    ),
    _Comparison("seeds", "seed", ("branch", "site", "prompt_id"), ("evaluation", "repeat", "step", "head")),
    _Comparison("prompts", "prompt_id", ("branch", "site"), ("evaluation", "repeat", "step", "head", "seed")),
)


def overlap(
    sinks: pd.DataFrame,
    *,
    units: pd.DataFrame | None = None,
    level: float | None = 0.95,
    draws: int = 2000,
) -> pd.DataFrame:
    """How far sets of sinks agree.

    Args:
        sinks: `Run.traces()` or `Observation.sinks()`.
        units: `unit prompt_id seed`. None: every unit is its own prompt with one seed.
        level: Confidence level of the intervals; None for none.
        draws: Bootstrap draws.

    Returns:
        One row per comparison, arm, query group and branch, over all layers (`site` missing) and per site:
        `between arm queries branch layer site jaccard ci_low ci_high shared chance_jaccard chance_shared
        level n_pairs n_prompts`. `between` is `next step` (one step and the next recorded one), `steps` (any
        two), `layers`, `branches` (cond and uncond; `branch` missing), `seeds` (of one prompt) or `prompts`
        (of one seed); comparisons the table cannot make are left out. `jaccard` is the size of the
        intersection over that of the union, `shared` over that of the smaller set; `chance_*` what random
        sets of the same sizes have. The interval belongs to `jaccard`: BCa over prompts, and between prompts
        a jackknife over prompts (each prompt is in many pairs).
    """
    rows = _sets(sinks, units)
    layers = rows.drop_duplicates("site").set_index("site")["layer"]
    found = []
    for name, pairs in _compared(rows):
        found += [
            {"between": between, **line}
            for between, line in _lines(name, pairs, level=level, draws=draws)
        ]  # fmt: skip
    columns = ["between", "arm", "queries", "branch", "layer", "site", "jaccard", "ci_low", "ci_high"]
    columns += [*MEASURES[1:], "level", "n_pairs", "n_prompts"]
    table = pd.DataFrame(found, columns=[name for name in columns if name != "layer"])
    table["layer"] = table["site"].map(layers).astype("Int64")
    order = table["between"].map({name: place for place, name in enumerate(BETWEEN)})
    return table.iloc[np.argsort(order.to_numpy(), kind="stable")][columns].reset_index(drop=True)


def overlap_pairs(sinks: pd.DataFrame, *, units: pd.DataFrame | None = None) -> pd.DataFrame:
    """How far the sets of any two steps agree, and of any two layers.

    Returns:
        One row per comparison (`steps` or `layers`), arm, query group, branch, site (missing between layers)
        and pair: `between arm queries branch layer site a b jaccard shared chance_jaccard chance_shared
        n_prompts`. `a` and `b` are steps, or module paths; a mean over heads, units and prompts.
    """
    rows = _sets(sinks, units)
    layers = rows.drop_duplicates("site").set_index("site")["layer"]
    found = []
    for name, pairs in _compared(rows, ("steps", "layers")):
        by = ["arm", "queries", "branch", *(["site"] if name == "steps" else [])]
        group, groups = numbered(pairs.cells, by)
        for number, place in enumerate(groups.to_dict("records")):
            found.append(_pair_lines(name, place, pairs, group == number))
    columns = ["between", "arm", "queries", "branch", "layer", "site", "a", "b", *MEASURES, "n_prompts"]
    if not found:
        return pd.DataFrame(columns=columns)
    table = pd.concat(found, ignore_index=True)
    table["layer"] = table["site"].map(layers).astype("Int64")
    return table[columns]


def _sets(sinks: pd.DataFrame, units: pd.DataFrame | None) -> pd.DataFrame:
    needed = ("step", "layer", "site", "head", "key", "mass", "times_uniform")
    rows = prompts_and_seeds(complete(sinks, needed), units)
    rows = rows[rows["mass"] > 0]
    many = np.rint(rows["times_uniform"].to_numpy(float) / rows["mass"].to_numpy(float)).astype(int)
    rows = rows.assign(n_keys=np.maximum(many, 1))
    # Keys of different sites are the same only where both see the same sequence.
    leaf = rows["site"].astype(str).str.partition("#")[0].str.rpartition(".")[2]
    size = rows.groupby("site", sort=False)["n_keys"].transform("max").astype(str)
    return rows.assign(space=leaf + "/" + size)


def _compared(rows: pd.DataFrame, names: tuple[str, ...] | None = None) -> Iterator[tuple[str, Pairs]]:
    for between, item, cell, fold in _COMPARISONS:
        if (names is None or between in names) and rows[item].nunique() > 1:
            if between == "branches" and set(rows["branch"].unique()) < {"cond", "uncond"}:
                continue
            yield (
                between,
                compare(rows, cell=("arm", "queries", *cell), fold=fold, item=item),
            )


def _lines(
    between: str, pairs: Pairs, *, level: float | None, draws: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Summary lines of a comparison: over all sites, then per site; neighbouring steps first."""
    sites = ["site"] if "site" in pairs.cells.columns else []
    shared = [name for name in ("arm", "queries", "branch") if name in pairs.cells.columns]
    everything = np.ones(len(pairs.first), dtype=bool)
    subsets = {between: everything}
    if between == "steps":
        subsets = {"next step": pairs.second == pairs.first + 1, "steps": everything}
    for name, subset in subsets.items():
        for by in (shared, [*shared, *sites]) if sites else (shared,):
            group, groups = numbered(pairs.cells, by)
            for number, place in enumerate(groups.to_dict("records")):
                line = _summary(pairs, group == number, subset, level=level, draws=draws)
                if line is not None:
                    where = {str(column): value for column, value in place.items()}
                    yield name, {"branch": None, "site": None, **where, **line}


def _summary(
    pairs: Pairs, here: Any, subset: Any, *, level: float | None, draws: int
) -> dict[str, Any] | None:
    values = {name: part[here][:, subset] for name, part in pairs.values.items()}
    told = np.isfinite(values["jaccard"])
    if not told.any():
        return None
    line: dict[str, Any] = {"level": np.nan if level is None else level, "n_pairs": int(told.sum())}
    if "prompt_id" not in pairs.cells.columns:
        return line | _between_prompts(pairs, values, level)
    prompt, prompts = numbered(pairs.cells[here], ["prompt_id"])
    with np.errstate(invalid="ignore"):
        means = {name: _grouped(prompt, len(prompts), part) for name, part in values.items()}
    known = np.isfinite(means["jaccard"])
    line |= {name: float(part[known].mean()) for name, part in means.items()}
    names = list(prompts["prompt_id"][known])
    _, low, high = over_prompts(means["jaccard"][None, known], names, level, draws)
    return line | {"ci_low": low[0], "ci_high": high[0], "n_prompts": len(names)}


def _grouped(group: Any, count: int, values: Floats) -> Floats:
    """Means `[group]` of the finite entries of `[row, pair]`: first within a row, then over rows."""
    told = np.isfinite(values)
    number = told.sum(axis=1)
    row = np.where(told, values, 0.0).sum(axis=1) / np.where(number > 0, number, np.nan)
    known = np.isfinite(row)
    sums = np.bincount(group[known], weights=row[known], minlength=count)
    return np.asarray(sums / np.bincount(group[known], minlength=count))


def _between_prompts(pairs: Pairs, values: dict[str, Floats], level: float | None) -> dict[str, Any]:
    """Means over pairs of prompts; the interval from the jackknife of this U-statistic (Arvesen 1969)."""
    means = {name: _over_cells(part) for name, part in values.items()}
    told = np.isfinite(means["jaccard"])
    first, second = pairs.first[told], pairs.second[told]
    prompts, n = sorted({*first.tolist(), *second.tolist()}), len({*first.tolist(), *second.tolist()})
    line: dict[str, Any] = {name: float(part[told].mean()) for name, part in means.items()}
    line |= {"ci_low": np.nan, "ci_high": np.nan, "n_prompts": n}
    if level is None or n < 4:
        return line
    value = means["jaccard"][told]
    without = np.array([value[(first != index) & (second != index)].mean() for index in prompts])
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * error)
    low, high = line["jaccard"] - half, line["jaccard"] + half
    return line | {"ci_low": max(0.0, low), "ci_high": min(1.0, high)}


def _over_cells(values: Floats) -> Floats:
    told = np.isfinite(values)
    count = told.sum(axis=0)
    return np.asarray(np.where(told, values, 0.0).sum(axis=0) / np.where(count > 0, count, np.nan))


def _pair_lines(between: str, place: dict[Any, Any], pairs: Pairs, here: Any) -> pd.DataFrame:
    prompt, prompts = numbered(pairs.cells[here], ["prompt_id"])
    table: dict[str, Any] = {
        "a": [pairs.items[index] for index in pairs.first],
        "b": [pairs.items[index] for index in pairs.second],
    }
    for name, part in pairs.values.items():
        values = part[here]
        per_prompt = np.stack([_over_cells(values[prompt == number]) for number in range(len(prompts))])
        table[name] = _over_cells(per_prompt)
    lines = pd.DataFrame(table).assign(**{"site": None, **place}, between=between, n_prompts=len(prompts))
    return lines[lines["jaccard"].notna()]
