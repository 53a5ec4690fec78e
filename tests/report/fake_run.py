"""A synthetic run folder in the schema of the study room: realistic columns, invented numbers.

Used only by the tests of the report: nothing here is a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image, ImageDraw
from scipy import stats

COLORS = {
    "red": "#d33",
    "green": "#2a4",
    "blue": "#36c",
    "yellow": "#dc2",
    "purple": "#839",
    "orange": "#e82",
}
SHAPES = ("circle", "square", "triangle")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
BUDGETS = (1, 5, 10)
METRICS = ("scene", "clip_t", "ssim", "rmse")
MARGINS = {"scene": 0.05, "clip_t": 0.01, "ssim": 0.03, "rmse": 0.02}
N_TEXT, N_IMAGE = 40, 64


def edit(
    selector: str, budget: int, *, action: Mapping[str, Any] | None = None, **extra: Any
) -> dict[str, Any]:
    """One arm's edit as `Edit.to_dict()` writes it."""
    return {
        "select": {selector: {"keys_per_head": budget}},
        "action": dict(action or {"Mask": {}}),
        "layers": None,
        "steps": [0.0, 1.0],
        "branch": "both",
        "queries": "all",
        **extra,
    }


def arms(budgets: Sequence[int] = BUDGETS) -> dict[str, Any]:
    """The demo's arms: null, sink and random at each budget, one value-path arm."""
    made: dict[str, Any] = {
        "null": edit("TopMass", 1, control={"of": "abc", "kind": "null", "matched": [], "text": "x"})
    }
    for budget in budgets:
        made[f"sink_{budget}"] = edit("TopMass", budget)
        control = {
            "of": "abc",
            "kind": "count",
            "matched": ["count"],
            "text": f"{budget} random keys per head",
        }
        made[f"random_{budget}"] = edit("RandomKeys", budget, control=control)
    made["value_1"] = edit("TopMass", 1, action={"ReplaceValue": {"with_": "mean", "amount": 1.0}})
    return made


def prompts(n: int) -> pd.DataFrame:
    """`n` prompts spread over the six tasks."""
    names = list(COLORS)
    rows = []
    for i in range(n):
        color, shape = names[i % len(names)], SHAPES[(i // 2) % 3]
        text = f"a photo of a {color} {shape}" if i % 2 else f"a {shape} left of a {color} {SHAPES[i % 3]}"
        rows.append(
            {"prompt_id": f"p{i:03d}", "prompt": text, "task": TASKS[i % 6], "color": color, "shape": shape}
        )
    return pd.DataFrame(rows)


def draw(row: Any, strength: float, rng: np.random.Generator, side: int) -> Image.Image:
    """A shape on grey, moved and recoloured by `strength`, with decoder-like noise."""
    image = Image.new("RGB", (side, side), "#d8d8d4")
    pen = ImageDraw.Draw(image)
    shift = strength * side * 0.35
    x0, y0 = side * 0.25 + shift * rng.normal(), side * 0.25 + shift * rng.normal()
    x1, y1 = x0 + side * 0.5, y0 + side * 0.5
    color = COLORS[row.color] if strength < 0.35 or rng.random() > 0.4 else rng.choice(list(COLORS.values()))
    if row.shape == "circle":
        pen.ellipse((x0, y0, x1, y1), fill=str(color))
    elif row.shape == "square":
        pen.rectangle((x0, y0, x1, y1), fill=str(color))
    else:
        pen.polygon([(x0, y1), (x1, y1), ((x0 + x1) / 2, y0)], fill=str(color))
    noise = rng.normal(0, 3, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def strength(arm: str) -> float:
    """How strongly an arm changes the picture."""
    kind, _, budget = arm.partition("_")
    dose = math.log1p(int(budget)) if budget else 0.0
    return {"sink": 0.16 * dose, "random": 0.05 * dose, "value": 0.12 * dose}.get(kind, 0.0)


def scores(
    table: pd.DataFrame, names: Sequence[str], seeds: Sequence[int], rng: np.random.Generator
) -> pd.DataFrame:
    """Long table of scores for every unit, arm and metric."""
    rows = []
    for p in table.itertuples():
        for seed in seeds:
            good = rng.random() < 0.9
            similarity = rng.normal(0.31, 0.02)
            for arm in names:
                s = strength(arm)
                jitter = abs(rng.normal(0, 0.25 * s)) if s else 0.0
                values = {
                    "scene": float(good and rng.random() > 0.3 * s),
                    "clip_t": similarity - 0.02 * s + rng.normal(0, 0.004) * (s > 0),
                    "ssim": 1.0 - min(0.9, s + jitter),
                    "rmse": 0.3 * (s + jitter),
                }
                rows += [
                    {
                        "unit": f"{p.prompt_id}-s{seed}",
                        "prompt_id": p.prompt_id,
                        "prompt": p.prompt,
                        "task": p.task,
                        "seed": seed,
                        "arm": arm,
                        "metric": m,
                        "value": v,
                        "status": "ok",
                    }
                    for m, v in values.items()
                ]
    return pd.DataFrame(rows)


def _effect(sub: pd.DataFrame, metric: str, arm: str, reference: str, n_units: int) -> dict[str, Any]:
    diff = (sub[arm] - sub[reference]).to_numpy()
    n, mean = len(diff), float(diff.mean())
    sd = float(diff.std(ddof=1)) if n > 1 else math.nan
    se = sd / math.sqrt(n) if n > 1 else math.nan
    margin = MARGINS.get(metric, math.nan)
    t95, t90 = (float(stats.t.ppf(q, max(n - 1, 1))) for q in (0.975, 0.95))
    p = float(2 * stats.t.sf(abs(mean) / se, n - 1)) if se else math.nan
    tost = float(stats.t.sf((margin - abs(mean)) / se, n - 1)) if se else (0.0 if n > 1 else math.nan)
    return {
        "n_prompts": n,
        "n_units": n_units,
        "mean_arm": sub[arm].mean(),
        "mean_reference": sub[reference].mean(),
        "effect": mean,
        "sd": sd,
        "dz": mean / sd if sd else math.nan,
        "ci_low": mean - t95 * se,
        "ci_high": mean + t95 * se,
        "level": 0.95,
        "p_t": p,
        "p_wilcoxon": p,
        "p_holm": p,
        "margin": margin,
        "p_tost": tost,
        "ci90_low": mean - t90 * se,
        "ci90_high": mean + t90 * se,
        "direction": "higher" if metric != "rmse" else "lower",
        "note": "",
    }


def effects(table: pd.DataFrame, contrasts: Sequence[tuple[str, str, str]]) -> pd.DataFrame:
    """A plain stand-in for `sinkscope.stats.effects`: t intervals, Holm over the task 'all'."""
    rows = []
    for metric in table["metric"].unique():
        for task in ["all", *sorted(table["task"].unique())]:
            part = table[(table["metric"] == metric) & ((table["task"] == task) | (task == "all"))]
            wide = part.groupby(["prompt_id", "arm"])["value"].mean().unstack()
            for arm, reference, kind in contrasts:
                fact = _effect(wide, metric, arm, reference, part["unit"].nunique())
                label = f"{arm} - {reference}"
                rows.append(
                    {
                        "metric": metric,
                        "task": task,
                        "contrast": label,
                        "kind": kind,
                        "arm": arm,
                        "reference": reference,
                        **fact,
                    }
                )
    out = pd.DataFrame(rows)
    family = out["task"] == "all"
    ranked = out.loc[family, "p_t"].sort_values()
    steps = np.maximum.accumulate(np.minimum(1.0, ranked.to_numpy() * np.arange(len(ranked), 0, -1)))
    out.loc[ranked.index, "p_holm"] = steps
    different = out["p_holm"] < 0.05
    equivalent = (out["p_tost"] < 0.05) & ~different
    out["verdict"] = np.where(different, "different", np.where(equivalent, "equivalent", "inconclusive"))
    return out


def traces(
    units: Sequence[str], layers: int, steps: int, heads: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Top-1 sinks of the baseline arm: text BOS and padding in the middle layers, image keys elsewhere."""
    index = pd.MultiIndex.from_product(
        [range(steps), ("cond", "uncond"), units, range(layers), range(heads)],
        names=["step", "branch", "unit", "layer", "head"],
    )
    frame = index.to_frame(index=False)
    n = len(frame)
    textual = rng.random(n) < 0.15 + 0.7 * np.exp(-((frame["layer"] - layers / 2) ** 2) / 3)
    position = np.where(
        textual, rng.choice([0, 7, 8, 20, 3], n, p=[0.4, 0.15, 0.2, 0.2, 0.05]), rng.integers(0, N_IMAGE, n)
    )
    names = {
        0: ("<|startoftext|>", "bos"),
        7: ("<|endoftext|>", "eos"),
        3: ("red", "content"),
        8: ("!", "pad"),
        20: ("<pad>", "pad"),
    }
    frame["timestep"] = 1000.0 * (1 - frame["step"] / steps)
    frame["site"] = "transformer_blocks." + frame["layer"].astype(str) + ".attn#0.0"
    frame["rank"] = 0
    frame["queries"] = "image"
    frame["evaluation"] = 0
    frame["image_row"] = np.where(textual, np.nan, position // 8)
    frame["image_column"] = np.where(textual, np.nan, position % 8)
    frame["key"] = position + np.where(textual, N_IMAGE, 0)
    frame["segment"] = np.where(textual, "text", "image")
    frame["position"] = position
    frame["token"] = [names[p][0] if t else None for p, t in zip(position, textual, strict=True)]
    frame["role"] = [names[p][1] if t else None for p, t in zip(position, textual, strict=True)]
    frame["encoder"] = np.where(textual, "clip_l", None)
    lift = 2 + 6 * np.exp(-((frame["layer"] - layers / 2) ** 2) / 3) * (
        0.5 + 0.5 * np.sin(frame["step"] / steps * math.pi)
    )
    frame["mass"] = lift / (N_TEXT + N_IMAGE) * rng.lognormal(0, 0.15, n)
    frame["times_uniform"] = frame["mass"] * (N_TEXT + N_IMAGE)
    frame["arm"] = "baseline"
    return frame


def summary(sinks: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Per step, layer, branch and unit: the columns of `Observation.summary()`."""
    grouped = sinks.groupby(["step", "timestep", "branch", "unit", "layer", "site", "arm"], sort=False)[
        "mass"
    ]
    out = grouped.agg(max_mass="max", mean_top1="mean").reset_index()
    out["entropy"] = math.log(N_TEXT + N_IMAGE) - 20 * out["mean_top1"] + rng.normal(0, 0.05, len(out))
    out["top5_mass"] = np.minimum(0.9, 3.2 * out["mean_top1"])
    out["max_activation"] = rng.lognormal(1.5, 0.1, len(out))
    out["keys"] = N_TEXT + N_IMAGE
    out["times_uniform"] = out["mean_top1"] * out["keys"]
    out["queries"] = "image"
    out["mass_image"] = 0.62
    out["mass_text"] = 0.38
    return out


PLACE = ["step", "timestep", "branch", "unit", "layer", "site", "evaluation"]
KINDS = (
    ("image", None, N_IMAGE, 0.62),
    ("text", "bos", 1, 0.14),
    ("text", "content", 6, 0.10),
    ("text", "eos", 1, 0.04),
    ("text", "pad", N_TEXT - 8, 0.10),
)


def roles(sinks: pd.DataFrame) -> pd.DataFrame:
    """Mass by segment and role; the text queries look at the text twice as much."""
    place = sinks[
        ["step", "timestep", "branch", "unit", "layer", "site", "evaluation", "arm"]
    ].drop_duplicates()
    parts = []
    for segment, role, keys, mass in KINDS:
        for queries, factor in (("image", 1.0), ("text", 2.0)):
            share = 1 - factor * 0.38 if segment == "image" else factor * mass
            part = place.assign(segment=segment, role=role, keys=keys, mass=share, queries=queries)
            parts.append(part.assign(encoder=None if role is None else "clip_l"))
    return pd.concat(parts, ignore_index=True)


def takeover(sinks: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The begin mark loses 0.1 of the mass, and the words take half of it over."""
    place = sinks[PLACE].drop_duplicates()
    parts = []
    for (segment, role, _, mass), gain in zip(KINDS, (0.03, 0.0, 0.05, 0.0, 0.02), strict=True):
        edited = 0.1 if role == "bos" else 0.0
        part = place.assign(segment=segment, role=role, edited=edited, removed=edited, gain=gain)
        parts.append(part.assign(mass_before=mass, mass_after=mass + gain - edited, edit="abc123", arm=arm))
    return pd.concat(parts, ignore_index=True)


def replacements(sinks: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The next key of every head: a word."""
    part = sinks.drop(columns=["mass", "times_uniform"])
    part = part.assign(segment="text", role="content", token="red", gain=0.5 * sinks["mass"])
    return part.assign(mass_before=0.01, mass_after=0.5 * sinks["mass"] + 0.01, edit="abc123", arm=arm)


def receipts(sinks: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """What each edited arm removed, per step, layer, branch, head."""
    parts = []
    for name in names:
        kind, _, digits = name.partition("_")
        budget = int(digits or 0)
        part = sinks[["step", "timestep", "branch", "unit", "layer", "site", "head"]].copy()
        part["keys"] = budget
        part["share_of_keys"] = budget / (N_TEXT + N_IMAGE)
        uniform = budget / (N_TEXT + N_IMAGE)
        part["mass_before"] = np.minimum(0.9, sinks["mass"] * budget**0.7) if kind != "random" else uniform
        part["mass_after"] = part["mass_before"] if kind in ("value", "null") else 1e-12
        part["edit"], part["arm"] = "abc123", name
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def matches(budgets: Sequence[int], receipt: pd.DataFrame) -> pd.DataFrame:
    """How closely the random arms match the sink arms, as `Run.matches()` has it."""
    rows = []
    for budget in budgets:
        mass = receipt.groupby("arm")["mass_before"].mean()
        treated, control = mass[f"sink_{budget}"], mass[f"random_{budget}"]
        for name, segment, first, second, good in (
            ("count", "", budget, budget, True),
            ("mass", "", treated, control, False),
            ("segment", "text", 0.85, 0.38, False),
            ("segment", "image", 0.15, 0.62, False),
            ("persistence", "", 0.8, 0.02, False),
        ):
            row = {"arm": f"sink_{budget}", "reference": f"random_{budget}", "control_kind": "count"}
            row |= {"property": name, "segment": segment, "treated": float(first), "control": float(second)}
            row |= {"ratio": second / first, "in_call": math.nan, "tolerance": 0.05, "matched": good}
            rows.append({**row, "calls": 96})
    return pd.DataFrame(rows)


def study_dict(
    table: pd.DataFrame, made: Mapping[str, Any], seeds: Sequence[int], steps: int, metrics: Sequence[str]
) -> dict[str, Any]:
    """The content of study.yaml."""
    study = {
        "name": "demo",
        "model": "shapes",
        "prompts": "shapes",
        "n_prompts": len(table),
        "seeds": list(seeds),
        "steps": steps,
        "guidance": 4.0,
        "metrics": list(metrics),
        "margins": {m: MARGINS[m] for m in metrics},
        "level": 0.95,
        "draws": 10000,
        "arms": dict(made),
    }
    return {
        "format": 1,
        "study": study,
        "hash": "3f9a0c12be77",
        "model_hash": "9b1f7c0d",
        "versions": {"sinkscope": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.0", "python": "3.11.9"},
    }


def make(
    folder: Path,
    *,
    n_prompts: int = 12,
    seeds: Sequence[int] = (0,),
    budgets: Sequence[int] = BUDGETS,
    metrics: Sequence[str] = METRICS,
    side: int = 64,
    layers: int = 6,
    steps: int = 8,
    heads: int = 2,
    trace_units: int = 4,
    seed: int = 0,
) -> Path:
    """Write a whole synthetic run folder and return it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    made = arms(budgets)
    names = ["baseline", *made]
    table = prompts(n_prompts)
    for row in table.itertuples():
        for s in seeds:
            for arm in names:
                path = folder / "units" / arm / f"{row.prompt_id}-s{s}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(row, strength(arm), np.random.default_rng([seed, row.Index, s]), side).save(path)
    long = scores(table, names, seeds, rng)
    long = long[long["metric"].isin(metrics)]
    contrasts = [(a, "baseline", "arm-baseline") for a in made]
    contrasts += [(f"sink_{b}", f"random_{b}", "edit-control") for b in budgets]
    sinks = traces(sorted(long["unit"].unique())[:trace_units], layers, steps, heads, rng)
    long.to_parquet(folder / "scores.parquet")
    effects(long, contrasts).to_parquet(folder / "effects.parquet")
    sinks.to_parquet(folder / "traces.parquet")
    summary(sinks, rng).to_parquet(folder / "summary.parquet")
    received = receipts(sinks, list(made))
    received.to_parquet(folder / "receipts.parquet")
    roles(sinks).to_parquet(folder / "roles.parquet")
    takeover(sinks, f"sink_{budgets[0]}").to_parquet(folder / "takeover.parquet")
    replacements(sinks, f"sink_{budgets[0]}").to_parquet(folder / "replacements.parquet")
    matches(budgets, received).to_parquet(folder / "matches.parquet")
    text = yaml.safe_dump(study_dict(table, made, seeds, steps, metrics), sort_keys=False)
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return folder
