"""What the instrument says about a planted model: its own tables, read as short answers.

Nothing is computed here that a user would not read off the same tables: the verdict and direction of a row of
effects, the first rank of the traces, the masses of a receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from sinkscope.identity import persistence
from sinkscope.models import observe
from sinkscope.recipes.planted._plant import HEADS
from sinkscope.stats import dose_boundary
from sinkscope.study import Run

LAYER = 1
"""The block that carries the colour."""


@dataclass(frozen=True)
class Evidence:
    """A finished run of one planted model, and the model."""

    run: Run
    pipe: Any

    @cached_property
    def effects(self) -> pd.DataFrame:
        """`Run.effects`."""
        return self.run.effects()

    @cached_property
    def traces(self) -> pd.DataFrame:
        """Ranked keys of the baseline in the block that carries the colour."""
        traces = self.run.traces()
        return traces[(traces["layer"] == LAYER) & (traces["arm"] == "baseline")]

    def verdict(self, arm: str, against: str = "baseline", *, metric: str, task: str = "all") -> str:
        """Verdict of one row of effects; a difference with its direction."""
        table = self.effects
        row = table[
            (table["arm"] == arm)
            & (table["reference"] == against)
            & (table["metric"] == metric)
            & (table["task"] == task)
        ]
        if len(row) != 1:
            return f"{len(row)} rows of effects"
        word, direction = row[["verdict", "direction"]].iloc[0]
        return f"{word}, {direction}" if word == "different" else str(word)

    def first(self) -> str:
        """The heaviest key of each head and step, over all units; several where units disagree."""
        top = self.traces[self.traces["rank"] == 0]
        found = top.groupby(["head", "step"])["key"].unique()
        return keys_text({head: found.loc[head] for head in range(HEADS)})

    def first_of(self, queries: str) -> str:
        """The heaviest key of each head for a group of queries, in one picture, over its steps."""
        with observe(self.pipe, [LAYER], queries=queries) as seen:
            self.pipe(self.run.plan.units[0].prompt.text, generator=self.run.plan.units[0].generator())
        found = seen.sinks().groupby("head")["key"].unique()
        return keys_text({head: [found.loc[head]] for head in range(HEADS)})

    def segments(self) -> str:
        """Segments of the heaviest keys, by head."""
        top = self.traces[self.traces["rank"] == 0]
        return _joined(top.groupby("head")["segment"].unique())

    def steps_held(self) -> str:
        """In how many steps the most lasting heaviest key of a head is the heaviest, of how many."""
        told = persistence(self.traces[self.traces["rank"] == 0])
        held = told.groupby(["unit", "head"])["steps_held"].max().unique()
        return f"{'/'.join(str(count) for count in sorted(held))} of {told['steps_seen'].max()}"

    def removed_mass(self, arm: str) -> float:
        """Mean mass, before the edit, of the keys an arm removed in the block that carries the colour."""
        receipts = self.run.receipts()
        rows = receipts[(receipts["arm"] == arm) & (receipts["layer"] == LAYER)]
        return float(rows["mass_before"].mean())

    def mean(self, arm: str, metric: str) -> float:
        """Mean score of an arm."""
        scores = self.run.scores()
        return float(scores[(scores["arm"] == arm) & (scores["metric"] == metric)]["value"].mean())

    def boundary(self, ladder: Mapping[str, float], margins: Mapping[str, float], answer: str) -> str:
        """One answer of `stats.dose_boundary` for arms that remove more and more keys."""
        table = dose_boundary(self.run.scores(), ladder, margins=margins, draws=self.run.study.draws)
        value = table.loc[table["task"] == "all", answer].iloc[0]
        return f"{value:g}"


def keys_text(keys: Mapping[int, Iterable[Iterable[int]]]) -> str:
    """Keys of each head, step after step; one number where all steps have the same key."""
    parts = []
    for head, steps in keys.items():
        each = ["/".join(str(int(key)) for key in sorted(set(step))) for step in steps]
        parts.append(f"h{head}: {each[0] if len(set(each)) == 1 else ' '.join(each)}")
    return "; ".join(parts)


def _joined(values: pd.Series) -> str:
    return "; ".join(f"h{head}: {'/'.join(sorted(map(str, found)))}" for head, found in values.items())
