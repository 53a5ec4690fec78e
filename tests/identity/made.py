"""Tables of sinks with a known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd

KEYS = 30


def sinks(
    chosen: Callable[[int, str, str, int, int], Sequence[int]],
    *,
    steps: Sequence[int] = (0, 1, 2, 3),
    branches: Sequence[str] = ("cond", "uncond"),
    units: Sequence[str] = ("a-s0", "b-s0", "c-s0"),
    layers: Sequence[int] = (0, 1),
    heads: int = 2,
    keys: int = KEYS,
) -> pd.DataFrame:
    """`chosen(step, branch, unit, layer, head)` gives the keys of a head; key 0-19 is image, the rest text:
    20 bos, 21-23 content, 24 eos, then padding."""
    rows = []
    for step, branch, unit, layer, head in product(steps, branches, units, layers, range(heads)):
        for rank, key in enumerate(chosen(step, branch, unit, layer, head)):
            rows.append(
                {
                    "step": step,
                    "timestep": 1000.0 - step,
                    "branch": branch,
                    "unit": unit,
                    "layer": layer,
                    "site": f"blocks.{layer}.attn",
                    "head": head,
                    "rank": rank,
                    "key": int(key),
                    "segment": "image" if key < 20 else "text",
                    "role": role(int(key)),
                    "encoder": None if key < 20 else "clip",
                    "mass": 0.5 / (rank + 1),
                    "times_uniform": 0.5 / (rank + 1) * keys,
                    "queries": "image",
                    "evaluation": 0,
                    "arm": "baseline",
                }
            )
    return pd.DataFrame(rows)


def role(key: int) -> str | None:
    if key < 20:
        return None
    return "bos" if key == 20 else "content" if key < 24 else "eos" if key == 24 else "pad"


def roles(masses: dict[str, dict[tuple[str, str | None], float]], **scope: Sequence[object]) -> pd.DataFrame:
    """Mass by stream of queries and kind, the same at every place."""
    counts = {("image", None): 20, ("text", "bos"): 1, ("text", "content"): 3, ("text", "eos"): 1}
    counts[("text", "pad")] = KEYS - 25
    wide = {"step": (0, 1), "branch": ("cond",), "unit": ("a-s0", "b-s0"), "layer": (0, 1), **scope}
    rows = []
    for place in product(*wide.values()):
        for queries, shares in masses.items():
            for (segment, name), mass in shares.items():
                row = dict(zip(wide, place, strict=True))
                row |= {"site": f"blocks.{row['layer']}.attn", "segment": segment, "role": name}
                row |= {"keys": counts[segment, name], "mass": mass, "queries": queries, "evaluation": 0}
                rows.append({**row, "encoder": None, "arm": "baseline"})
    return pd.DataFrame(rows)


def units(names: Sequence[str]) -> pd.DataFrame:
    """`a-s0` is prompt a with seed 0."""
    parts = [name.rpartition("-s") for name in names]
    return pd.DataFrame(
        {"unit": names, "prompt_id": [p[0] for p in parts], "seed": [int(p[2]) for p in parts]}
    )


def blind(size: int, seed: int = 0, keys: int = KEYS) -> Callable[..., Sequence[int]]:
    """Random sets, drawn anew for every head and call."""
    rng = np.random.default_rng(seed)
    return lambda *_: rng.choice(keys, size, replace=False).tolist()
