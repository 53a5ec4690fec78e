"""What happens to the mass when sinks are removed: does one key take it over, does the model grow new sinks?

Masking a key renormalises the softmax: in the same call every other key gains, in proportion to its weight in
each query. That a next key stands there is therefore arithmetic; how heavy it is beside the removed one is
not. Whether the model answers shows in later calls: the sinks that an edit then meets, beside those of the
baseline at the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sinkscope.identity._intervals import over_prompts
from sinkscope.identity._origin import Floats, complete, numbered, prompts_and_seeds

CALL = ["arm", "edit", "evaluation", "branch", "unit", "repeat", "step", "site", "head"]
PLACE = ["evaluation", "branch", "unit", "repeat", "step", "site", "queries"]
_TOP = {1: "mean_top1", 5: "top5_mass"}
"""Keys per head -> column of the summary that holds their mass in the baseline."""


def compensation(
    receipts: pd.DataFrame,
    replacements: pd.DataFrame,
    *,
    summary: pd.DataFrame | None = None,
    budgets: Mapping[str, int] | None = None,
    units: pd.DataFrame | None = None,
    level: float | None = 0.95,
    draws: int = 2000,
) -> pd.DataFrame:
    """How much mass edits remove, how much of it the largest gainer takes, and what grows later.

    Args:
        receipts: `Run.receipts()`.
        replacements: `Run.replacements()`; arms and units that it does not hold are left out.
        summary: `Run.summary()` with rows of the baseline, for `regrowth`.
        budgets: Arm -> keys per head, of the arms that remove the keys of largest mass of every head.
        units: `unit prompt_id seed`. None: every unit is its own prompt.
        level: Confidence level of the intervals; None for none.
        draws: Bootstrap draws.

    Returns:
        One row per arm and branch over all layers (`site` missing), and one per site: `arm branch layer site`
        and, each followed by `_low` and `_high`: `removed` (mass that the edited keys of a head lose),
        `taken` (share of it that the key with the largest gain takes over), `relative` (mass of that key
        after the edit over the mean mass of the removed ones), `replaced` (share of heads and calls where it
        is at least as heavy as they were) and `regrowth` (mass of the sinks that the edit meets over that of
        the baseline's at the same step and layer; only for 1 or 5 keys per head, NaN otherwise); `level
        n_prompts n_units`. Ratios are ratios of sums within a unit; heads that lost nothing are left out.

    Raises:
        UsageError: A column is missing.
    """
    rows = _calls(receipts, replacements)
    rows = prompts_and_seeds(rows, units)
    grown = _baseline(rows, summary, budgets or {}, units)
    layers = rows.drop_duplicates("site").set_index("site")["layer"]
    found: list[dict[str, Any]] = []
    for by in (["arm", "branch"], ["arm", "branch", "site"]):
        group, groups = numbered(rows, by)
        for number, place in enumerate(groups.to_dict("records")):
            here = rows[group == number]
            near = None if grown is None else _matching(grown, place)
            where = {str(name): value for name, value in place.items()}
            found.append({"site": None, **where, **_facts(here, near, level, draws)})
    columns = ["arm", "branch", "layer", "site"]
    columns += [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    columns += ["level", "n_prompts", "n_units"]
    table = pd.DataFrame(found, columns=[name for name in columns if name != "layer"])
    table["layer"] = table["site"].map(layers).astype("Int64")
    return table[columns]


MEASURES = ("removed", "taken", "relative", "replaced", "regrowth")


def _calls(receipts: pd.DataFrame, replacements: pd.DataFrame) -> pd.DataFrame:
    """Every head of every edited call that lost mass, with the key that gained most there."""
    edits = complete(receipts, ("arm", "edit", "step", "layer", "site", "head", "keys", "mass_before"))
    gains = complete(replacements, ("arm", "edit", "step", "site", "head", "rank", "gain", "mass_after"))
    first = gains.loc[gains["rank"] == 0, [*CALL, "gain", "mass_after"]]
    first = first.rename(columns={"mass_after": "heaviest"}).drop_duplicates(CALL)
    known = edits[edits["arm"].isin(set(gains["arm"])) & edits["unit"].isin(set(gains["unit"]))]
    known = known.assign(removed=known["mass_before"] - known["mass_after"])
    known = known[(known["removed"] > 1e-9) & (known["keys"] > 0)]
    columns = [*CALL, "layer", "queries", "keys", "mass_before", "removed"]
    return known[columns].merge(first, on=CALL, how="inner", sort=False)


def _facts(rows: pd.DataFrame, grown: pd.DataFrame | None, level: float | None, draws: int) -> dict[str, Any]:
    each = rows.assign(
        count=1.0,
        own=rows["mass_before"] / rows["keys"],
        replaced=(rows["heaviest"] >= rows["mass_before"] / rows["keys"]).astype(float),
    )
    names = ["removed", "gain", "heaviest", "own", "replaced", "count"]
    sums = each.groupby(["prompt_id", "unit"], sort=True)[names].sum()
    values = {
        "removed": sums["removed"] / sums["count"],
        "taken": sums["gain"] / sums["removed"],
        "relative": sums["heaviest"] / sums["own"],
        "replaced": sums["replaced"] / sums["count"],
    }
    if grown is not None and len(grown):
        parts = grown.groupby(["prompt_id", "unit"], sort=True)[["met", "top"]].sum()
        values["regrowth"] = parts["met"] / parts["top"]
    facts: dict[str, Any] = {"level": np.nan if level is None else level}
    for name in MEASURES:
        mean, low, high = (np.nan,) * 3
        if name in values:
            by_prompt = values[name].groupby("prompt_id").mean()
            told: Floats = over_prompts(by_prompt.to_numpy(float)[None], list(by_prompt.index), level, draws)
            mean, low, high = (float(part[0]) for part in told)
        facts |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    index = sums.index.to_frame()
    return facts | {"n_prompts": index["prompt_id"].nunique(), "n_units": len(index)}


def _baseline(
    rows: pd.DataFrame, summary: pd.DataFrame | None, budgets: Mapping[str, int], units: pd.DataFrame | None
) -> pd.DataFrame | None:
    """The mass of the sinks that each edit met, and of the baseline's, both means over heads."""
    if summary is None or not len(summary):
        return None
    base = complete(summary, ("step", "site", *_TOP.values()))
    base = base[base["arm"] == "baseline"]
    found = []
    for arm, count in budgets.items():
        if count not in _TOP:
            continue
        here = rows[(rows["arm"] == arm) & (rows["keys"] == count)]
        met = here.groupby(["arm", *PLACE], sort=False, observed=True)["mass_before"].mean().rename("met")
        top = base[[*PLACE, _TOP[count]]].rename(columns={_TOP[count]: "top"})
        found.append(met.reset_index().merge(top, on=PLACE, how="inner", sort=False))
    if not found:
        return None
    return prompts_and_seeds(pd.concat(found, ignore_index=True), units)


def _matching(grown: pd.DataFrame, place: Mapping[Any, Any]) -> pd.DataFrame:
    keep = np.ones(len(grown), dtype=bool)
    for name, value in place.items():
        keep &= (grown[name] == value).to_numpy()
    return grown[keep]


def budgets_of(arms: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Arms that remove the heaviest keys of every head, and how many.

    Args:
        arms: Arm -> its edits, as `Study.edits` gives them.
    """
    found = {}
    for name, edits in arms.items():
        if len(edits) != 1 or edits[0].control_info is not None or edits[0].heads is not None:
            continue
        select = edits[0].select
        if type(select).__name__ == "TopMass" and getattr(select, "keys_per_head", None):
            found[name] = int(select.keys_per_head)
    return found
