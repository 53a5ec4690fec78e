"""Running the bench: every case with every seed through the ordinary study, and the answers side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from sinkscope.errors import UsageError, unknown
from sinkscope.prompts import PromptRecord
from sinkscope.recipes.planted._cases import CASES, MARGINS, Planted
from sinkscope.recipes.planted._evidence import Evidence
from sinkscope.recipes.planted._model import PlantedTransformer
from sinkscope.recipes.planted._pipeline import COLORS, PlantedPipeline
from sinkscope.recipes.planted._plant import IMAGE_KEYS, TASKS, draw_keys, masses
from sinkscope.study import ObservePlan, Study, run

COLUMNS = ("case", "seed", "question", "expected", "found", "correct")
PROMPTS_PER_TASK = 16
DRAWS = 2000


def bench(seeds: Iterable[int] = range(20), cases: Iterable[str] | None = None) -> pd.DataFrame:
    """Ask the instrument about models whose truth is planted.

    Example:
        >>> bench(seeds=[0], cases=["heavy_irrelevant"])["correct"].all()    # doctest: +SKIP

    Args:
        seeds: Each plants other keys and masses, and paints other prompts from other noise.
        cases: Names from `CASES`; None for all.

    Returns:
        One row per case, seed and question: `case seed question expected found correct`.

    Raises:
        UsageError: an unknown case, or no seed.
    """
    names = list(CASES) if cases is None else list(cases)
    for name in names:
        if name not in CASES:
            raise unknown("planted case", name, CASES)
    chosen = [int(seed) for seed in seeds]
    if not chosen or not names or min(chosen) < 0:
        raise UsageError(
            f"Got seeds={chosen} and cases={names}; expected at least one of each, seeds from 0."
        )
    rows = [row for name in names for seed in chosen for row in answers(name, seed)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def tally(table: pd.DataFrame) -> pd.DataFrame:
    """Right answers per case: `case planted seeds seeds_all_right questions correct total`.

    Args:
        table: As `bench` returns it.
    """
    rows = []
    for name, part in table.groupby("case", sort=False):
        by_seed = part.groupby("seed")["correct"].all()
        about = (CASES[str(name)].__doc__ or "").split("\n    ")
        row = {"case": name, "planted": " ".join(about), "seeds": len(by_seed)}
        row |= {"seeds_all_right": int(by_seed.sum()), "questions": part["question"].nunique()}
        rows.append(row | {"correct": int(part["correct"].sum()), "total": len(part)})
    return pd.DataFrame(rows)


def answers(case: str, seed: int) -> Iterator[tuple[str, int, str, str, str, bool]]:
    """Run one case with one seed in a temporary folder; its rows of the table."""
    planted, pipe = build(case, seed)
    with tempfile.TemporaryDirectory(prefix="sinkscope-planted-") as folder:
        finished = run(study(case, seed, planted), Path(folder), progress=False, pipe=pipe)
        evidence = Evidence(finished, pipe)
        for question in planted.questions:
            found = question.find(evidence)
            yield case, seed, question.text, question.expected, found, found == question.expected


def build(case: str, seed: int) -> tuple[Planted, PlantedPipeline]:
    """The planted case and its pipeline."""
    rng = np.random.default_rng([seed, *case.encode()])
    planted = CASES[case](rng)
    decoy = np.stack([masses({int(key): 0.4}, rng) for key in draw_keys(1, rng)[:, 0]])
    square = np.zeros((8, 8), dtype=np.float32)
    top, left = rng.integers(1, 4, size=2)
    square[top : top + 4, left : left + 4] = 1.0
    model = PlantedTransformer(planted.plant, decoy=decoy, square=square.reshape(IMAGE_KEYS), seed=seed)
    return planted, PlantedPipeline(model.eval())


def study(case: str, seed: int, planted: Planted) -> Study:
    """The study of a planted case: nothing in it is special to the bench."""
    return Study(
        name=f"planted-{case}-{seed}",
        model=f"planted/{case}",
        prompts=prompts(seed),
        arms=planted.arms,
        metrics=("scene", "rmse"),
        seeds=(seed,),
        steps=planted.steps,
        batch=PROMPTS_PER_TASK * len(TASKS),
        observe=ObservePlan(keys_per_head=planted.ranks),
        margins=MARGINS,
        draws=DRAWS,
    )


def prompts(seed: int) -> tuple[PromptRecord, ...]:
    """Ten prompts for each of two tasks; one of each task asks for what the model cannot paint."""
    rng = np.random.default_rng([seed, 1])
    records = []
    for task in TASKS:
        colors = rng.permutation(np.resize(COLORS, PROMPTS_PER_TASK))
        views = rng.choice(1000, PROMPTS_PER_TASK, replace=False)
        for index, (color, view) in enumerate(zip(colors.tolist(), views.tolist(), strict=True)):
            shape = "circle" if index == 0 else "square"
            text = f"a {color} {shape} at {task} view {view}"
            clause = {"class": shape, "count": 1, "color": color}
            record = PromptRecord(f"planted-{task}-{index:02d}", text, task, {"include": [clause]})
            records.append(record)
    return tuple(records)
