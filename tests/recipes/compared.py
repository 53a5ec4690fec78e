"""A finished run held in memory: real statistics over invented scores, for the tests of the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sinkscope import stats
from sinkscope.attention import TopMass
from sinkscope.models import Edit
from sinkscope.prompts import PromptRecord
from sinkscope.study import Run, Study
from sinkscope.study._analyse import contrasts
from sinkscope.study._plan import Plan, make_plan

PROMPTS = tuple(PromptRecord(f"p{i:02d}", f"prompt number {i}", "ab"[i % 2]) for i in range(16))
LPIPS = {"sink_1": 0.40, "random_1": 0.10, "sink_5": 0.60, "random_5": 0.30}


def study(name: str = "paper/table6:corrected", **changes: Any) -> Study:
    """Sinks and random keys at two budgets, scored by LPIPS and SSIM."""
    arms: dict[str, Any] = {}
    for k in (1, 5):
        edit = Edit(TopMass(keys_per_head=k))
        arms |= {f"sink_{k}": edit, f"random_{k}": edit.control("count")}
    settings = {"model": "shapes", "prompts": PROMPTS, "metrics": ("lpips", "ssim"), "draws": 100}
    return Study(name=name, arms=arms, **{**settings, **changes})


class MemoryRun(Run):
    """A run without a folder."""

    def __init__(self, made: Study, tables: dict[str, pd.DataFrame] | None = None) -> None:
        self._made = made
        self._tables = {"scores": invented(made), **(tables or {})}

    @property
    def folder(self) -> Path:
        return Path("runs/memory")

    @property
    def study(self) -> Study:
        return self._made

    @property
    def plan(self) -> Plan:  # type: ignore[override]
        return make_plan(self._made, self._made.prompts, 4)  # type: ignore[arg-type]

    def scores(self) -> pd.DataFrame:
        return self._tables["scores"]

    def effects(self) -> pd.DataFrame:
        declared = contrasts(self._made)
        settings = {"draws": self._made.draws, "margins": dict(self._made.margins)}
        return stats.effects(self.scores(), contrasts=declared, metrics=list(self._made.metrics), **settings)  # type: ignore[arg-type]

    def _table(self, name: str) -> pd.DataFrame:
        return self._tables.get(name, pd.DataFrame())

    def receipts(self) -> pd.DataFrame:
        return self._table("receipts")

    def traces(self) -> pd.DataFrame:
        return self._table("traces")

    def summary(self) -> pd.DataFrame:
        return self._table("summary")


def invented(made: Study) -> pd.DataFrame:
    """LPIPS around `LPIPS` and SSIM = 1 - LPIPS, with noise per prompt."""
    rng = np.random.default_rng(7)
    rows = []
    for prompt in PROMPTS:
        for seed in made.seeds:
            shift = rng.normal(0, 0.02)
            for arm in made.arm_names:
                distance = LPIPS[arm] + shift + rng.normal(0, 0.01) if arm in LPIPS else 0.0
                for metric in made.metrics:
                    value = {"lpips": distance, "ssim": 1 - distance}.get(metric, rng.normal(0.3, 0.02))
                    about = {"unit": f"{prompt.id}-s{seed}", "prompt_id": prompt.id, "prompt": prompt.text}
                    about |= {"task": prompt.task, "seed": seed, "arm": arm, "metric": metric}
                    rows.append({**about, "value": value, "status": "ok"})
    return pd.DataFrame(rows)


def calls(made: Study, arms: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """Receipts: mass before and after, the same in every call."""
    rows = [
        {"unit": f"{p.id}-s0", "arm": arm, "keys": 1, "mass_before": before, "mass_after": after}
        for p in PROMPTS
        for arm, (before, after) in arms.items()
        for _ in range(3)
    ]
    return pd.DataFrame(rows)
