"""Sinks over steps and layers: mass against uniform, shares of segments and roles, the tokens themselves.

Only the baseline arm is described here, in one branch of the guidance at a time. Mass against uniform is
`mean over heads of the largest incoming mass x number of keys`: 1 means no concentration at all. Intervals
are 95 % t intervals over prompts, after averaging seeds and steps within a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

ROLE_ORDER = ("image", "text: bos", "text: content", "text: eos", "text: pad", "text: template")


def baseline_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the baseline arm (all rows when the table has no arm column)."""
    return frame[frame["arm"] == "baseline"] if "arm" in frame.columns else frame


def branches(frame: pd.DataFrame) -> list[str]:
    """Branches present, the conditional one first."""
    if "branch" not in frame.columns:
        return []
    order = {"cond": 0, "none": 1, "uncond": 2}
    return sorted((str(b) for b in frame["branch"].dropna().unique()), key=lambda b: (order.get(b, 3), b))


def query_group(frame: pd.DataFrame) -> str:
    """The group of queries whose attention is described: image queries where recorded, as in the paper."""
    if "queries" not in frame.columns:
        return ""
    known = sorted(str(q) for q in frame["queries"].dropna().unique())
    return "image" if "image" in known else known[0] if known else ""


def in_branch(frame: pd.DataFrame, branch: str | None = None) -> pd.DataFrame:
    """Baseline rows of `branch` (default: the conditional one) with a `place` column added."""
    rows = baseline_rows(frame)
    known = branches(rows)
    if known:
        rows = rows[rows["branch"] == (branch or known[0])]
    group = query_group(rows)
    rows = rows[rows["queries"] == group] if group else rows
    return rows.assign(place=places(rows))


def places(frame: pd.DataFrame) -> pd.Series:
    """A short name of each row's place: its layer, or its site where a layer has several or none."""
    layer = frame["layer"] if "layer" in frame.columns else pd.Series(pd.NA, index=frame.index)
    if "site" not in frame.columns:
        return layer.map(_layer_name)
    per_layer = frame.groupby(layer)["site"].nunique()
    single = layer.notna() & (layer.map(per_layer).fillna(2) <= 1)
    return pd.Series(np.where(single, layer.map(_layer_name), frame["site"].astype(str)), index=frame.index)


def _layer_name(layer: object) -> str:
    return "?" if layer is None or layer != layer else str(int(layer))  # type: ignore[call-overload]


def place_order(names: pd.Series) -> list[str]:
    """Layers by number, then sites by name."""
    unique = [str(n) for n in names.unique()]
    return sorted(unique, key=lambda n: (not n.isdigit(), int(n) if n.isdigit() else 0, n))


def prompts_of(frame: pd.DataFrame, scores: pd.DataFrame | None) -> pd.Series:
    """The prompt of each row: through the scores where they say so, else the unit without its seed."""
    if "unit" not in frame.columns:
        return pd.Series("all", index=frame.index)
    unit = frame["unit"].astype(str)
    known: Mapping[str, str] = {}
    if scores is not None and "prompt_id" in scores.columns:
        pairs = scores[["unit", "prompt_id"]].drop_duplicates("unit")
        known = dict(zip(pairs["unit"].astype(str), pairs["prompt_id"].astype(str), strict=True))
    return unit.map(lambda u: known.get(u, u.rpartition("-s")[0] or u))


def _ratio(rows: pd.DataFrame) -> pd.Series:
    return rows["times_uniform"] if "times_uniform" in rows.columns else rows["mean_top1"] * rows["keys"]


def concentration(summary: pd.DataFrame, branch: str | None = None) -> pd.DataFrame:
    """Columns place, step, ratio: mean over units of top-1 mass against uniform."""
    rows = in_branch(summary, branch)
    rows = rows.assign(ratio=_ratio(rows))
    return rows.groupby(["place", "step"], sort=False)["ratio"].mean().reset_index()


def by_place(
    summary: pd.DataFrame, scores: pd.DataFrame | None = None, branch: str | None = None
) -> pd.DataFrame:
    """One row per place: ratio with interval, peak step, entropy, concentration, segment masses."""
    rows = in_branch(summary, branch)
    rows = rows.assign(ratio=_ratio(rows), prompt=prompts_of(rows, scores))
    out = []
    for place in place_order(rows["place"]):
        part = rows[rows["place"] == place]
        mean, low, high, n = t_interval(part.groupby("prompt")["ratio"].mean().to_numpy())
        steps = part.groupby("step")["ratio"].mean()
        fact = {
            "place": place,
            "ratio": mean,
            "low": low,
            "high": high,
            "prompts": n,
            "keys": part["keys"].mean(),
        }
        fact |= {"peak_step": steps.idxmax() if steps.notna().any() else math.nan, "peak_ratio": steps.max()}
        extra = [c for c in ("max_mass", "entropy", "top5_mass", "max_activation") if c in part.columns]
        extra += [c for c in part.columns if c.startswith("mass_")]
        fact |= {column: part[column].mean() for column in extra}
        if "entropy" in part.columns:
            fact["entropy_share"] = (part["entropy"] / np.log(part["keys"])).mean()
        out.append(fact)
    return pd.DataFrame(out)


def t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float, int]:
    """Mean, low, high, n of the finite values; the interval is NaN below two values."""
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if not len(x):
        return math.nan, math.nan, math.nan, 0
    mean = float(x.mean())
    if len(x) < 2:
        return mean, math.nan, math.nan, len(x)
    half = float(stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return mean, mean - half, mean + half, len(x)


def top_rows(traces: pd.DataFrame, branch: str | None = None) -> pd.DataFrame:
    """The strongest key of every call and head, with `kind` (segment and role) added."""
    rows = in_branch(traces, branch)
    if "rank" in rows.columns:
        rows = rows[rows["rank"] == rows["rank"].min()]
    return rows.assign(kind=kinds(rows))


def kinds(frame: pd.DataFrame) -> pd.Series:
    """`image`, `text: bos`, `text: pad` ...: the segment, with the role where one is known."""
    segment = frame["segment"].astype("object").where(frame["segment"].notna(), "unknown").astype(str)
    if "role" not in frame.columns:
        return segment
    role = frame["role"].astype("object")
    return segment.where(role.isna(), segment + ": " + role.astype(str))


def kind_order(names: pd.Series) -> list[str]:
    """Kinds in a fixed order, so that colours mean the same on every figure."""
    unique = {str(n) for n in names.unique()}
    return [k for k in ROLE_ORDER if k in unique] + sorted(unique - set(ROLE_ORDER))


def shares(traces: pd.DataFrame, by: str = "place", branch: str | None = None) -> pd.DataFrame:
    """Share of strongest keys of each kind, one row per `by` ("place" or "step"), one column per kind."""
    top = top_rows(traces, branch)
    table = pd.crosstab(top[by], top["kind"], normalize="index")
    order = place_order(top["place"]) if by == "place" else sorted(table.index)
    return table.reindex(index=order, columns=kind_order(top["kind"]))


def kind_table(
    traces: pd.DataFrame, scores: pd.DataFrame | None = None, branch: str | None = None
) -> pd.DataFrame:
    """Share of each kind among the strongest keys, with a t interval over prompts."""
    top = top_rows(traces, branch)
    top = top.assign(prompt=prompts_of(top, scores))
    per_prompt = pd.crosstab(top["prompt"], top["kind"], normalize="index")
    out = []
    for kind in kind_order(top["kind"]):
        mean, low, high, n = t_interval(per_prompt[kind].to_numpy())
        found = int((top["kind"] == kind).sum())
        low, high = max(low, 0.0) if low == low else low, min(high, 1.0) if high == high else high
        out.append({"kind": kind, "share": mean, "low": low, "high": high, "prompts": n, "count": found})
    return pd.DataFrame(out)


def _some(names: list[str], total: int) -> str:
    """Few layers by number, many layers or sites by their count."""
    return (
        ", ".join(names)
        if len(names) <= 8 and all(n.isdigit() for n in names)
        else f"{len(names)} of {total}"
    )


def _whole(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype("Int64").astype(str)


def frequent(traces: pd.DataFrame, n: int = 15, branch: str | None = None) -> pd.DataFrame:
    """The most frequent strongest keys: kind, encoder, text or position, share, mass, layers."""
    top = top_rows(traces, branch)
    token = top["token"] if "token" in top.columns else pd.Series(None, index=top.index, dtype="object")
    position = (
        top["position"] if "position" in top.columns else top.get("key", pd.Series(pd.NA, index=top.index))
    )
    if {"image_row", "image_column"} <= set(top.columns):
        here = top["image_row"].notna()
        grid = "row " + _whole(top["image_row"]) + ", column " + _whole(top["image_column"])
        position = ("position " + position.astype(str)).where(~here, grid)
    else:
        position = "position " + position.astype(str)
    named = token.notna()
    label = token.astype("object").where(named, position)
    encoder = top["encoder"].fillna("") if "encoder" in top.columns else ""
    top = top.assign(label=label.astype(str), encoder=encoder, named=named)
    groups = top.groupby(["kind", "encoder", "label", "named"], dropna=False)
    found = groups.agg(count=("mass", "size"), mass=("mass", "mean")).reset_index()
    if "unit" in top.columns:
        found["units"] = groups["unit"].nunique().to_numpy()
    total = top["place"].nunique()
    found["layers"] = [_some(place_order(g["place"]), total) for _, g in groups]
    found["share"] = found["count"] / len(top)
    return found.sort_values(["count", "mass"], ascending=False).head(n).reset_index(drop=True)
