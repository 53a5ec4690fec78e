"""How long a sink stays: in which share of the steps, and for how many steps in a row."""

from __future__ import annotations

import pandas as pd

from sinkscope.identity._origin import complete

HEAD = ["arm", "queries", "evaluation", "branch", "unit", "repeat", "site", "head"]
"""What one head of one row is, over all its steps."""


def persistence(sinks: pd.DataFrame) -> pd.DataFrame:
    """The sinks with their history over the steps.

    Args:
        sinks: `Run.traces()` or `Observation.sinks()`.

    Returns:
        The same rows with four columns more: `steps_seen`, the recorded steps of that head; `steps_held`, in
        how many of them this key is among its sinks; `persistence`, their ratio; `streak`, how many recorded
        steps in a row, this one included, the key stays a sink.
    """
    rows = complete(sinks, ("step", "site", "head", "key"))
    short = rows[[*HEAD, "key", "step"]].drop_duplicates()
    by_head = short.groupby(HEAD, sort=False, dropna=False, observed=True)["step"]
    place = by_head.rank("dense").astype(int)
    key = [*HEAD, "key"]
    short = short.assign(steps_seen=by_head.transform("nunique"), place=place).sort_values("place")
    by_key = short.groupby(key, sort=False, dropna=False, observed=True)
    short["steps_held"] = by_key["place"].transform("size")
    # Within a run of consecutive steps, the place grows as fast as the count.
    short["run"] = short["place"] - by_key.cumcount()
    runs = short.groupby([*key, "run"], sort=False, dropna=False, observed=True)
    short["streak"] = runs["place"].transform("size")
    short["persistence"] = short["steps_held"] / short["steps_seen"]
    told = short[[*key, "step", "steps_seen", "steps_held", "persistence", "streak"]]
    merged = rows.merge(told, on=[*key, "step"], how="left", sort=False)
    return merged.set_axis(sinks.index)[[*sinks.columns, "steps_seen", "steps_held", "persistence", "streak"]]
