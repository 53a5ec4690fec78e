"""How large traces are, and the mass of every key on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.study.small import SINK, TEXTS, tiny_study

from sinkscope.errors import UsageError
from sinkscope.models import observe
from sinkscope.study import ObservePlan, Run, run
from sinkscope.study._files import read_table, write_table
from sinkscope.study._resolve import SMALL_MODEL


def test_the_mass_of_every_key_is_kept_where_asked_for(tmp_path: Path, pipe: Any, finished: Run) -> None:
    watch = ObservePlan(full_mass=True, units=3, arms=("baseline", "sink"))
    study = tiny_study(arms={"sink": SINK}, prompts=TEXTS[:4], metrics=(), margins={}, observe=watch)
    result = run(study, tmp_path / "run", pipe=pipe, progress=False)
    table = result.full_mass("baseline", "p0002-s0")
    assert set(table["unit"]) == {"p0002-s0"}
    units = result.plan.batches()[1].units
    with observe(pipe, units=[unit.id for unit in units]) as seen:
        pipe(
            [unit.prompt.text for unit in units],
            generator=[unit.generator() for unit in units],
            num_inference_steps=2,
            height=16,
            width=16,
        )
    rows = seen.rows(layer=1)
    row = rows.index[(rows["unit"] == "p0002-s0") & (rows["branch"] == "cond")][0]
    here = table[(table["layer"] == 1) & (table["branch"] == "cond")].sort_values(["step", "head"])
    expected = seen.mass(layer=1)[:, row].reshape(len(here), -1).numpy()
    assert np.array_equal(np.stack(here["mass"].to_list()), expected)
    assert np.stack(table["mass"].to_list()).dtype == np.float32
    assert set(result.full_mass("sink")["unit"]) == {f"p{index:04d}-s0" for index in range(3)}
    assert not (result.folder / "full_mass.parquet").exists()
    with pytest.raises(
        UsageError, match="not recorded for arm 'baseline' and unit 'p0003-s0'.*full_mass: true"
    ):
        result.full_mass("baseline", "p0003-s0")
    with pytest.raises(UsageError, match="not recorded for arm 'sink_1'"):
        finished.full_mass("sink_1")
    with pytest.raises(UsageError, match="Unknown arm 'other'"):
        finished.full_mass("other")


def test_full_mass_is_a_choice_of_the_plan() -> None:
    assert "full_mass" not in ObservePlan().to_dict()
    assert ObservePlan.from_dict(ObservePlan(full_mass=True).to_dict()).full_mass
    with pytest.raises(UsageError, match="full_mass='yes': expected True or False"):
        ObservePlan(full_mass="yes")  # type: ignore[arg-type]


def sd3_trace(layers: int, units: int = 2) -> pd.DataFrame:
    """Sinks of one key per head as SD3 at 1024 pixels would give them: 28 steps, 24 heads, both branches,
    4429 keys, masses that never repeat; a head keeps its sink in 86 of 100 steps, as measured on the embedded
    model."""
    rng = np.random.default_rng(0)
    steps, branches, heads, keys = 28, 2, 24, 4429
    shape = (steps, layers, branches, units, heads)
    step, layer, branch, unit, head = (axis.ravel() for axis in np.indices(shape))
    own = rng.integers(0, 40, (layers, branches, units, heads)) * 100
    key = np.where(rng.random(shape) < 0.86, own, rng.integers(0, 40, shape) * 100).ravel()
    image = key < 4096
    mass = rng.lognormal(-3, 1, key.size).astype(np.float32)
    return pd.DataFrame(
        {
            "step": step, "timestep": 1000 - 35.7 * step,
            "branch": np.array(["cond", "uncond"], dtype=object)[branch],
            "unit": np.array([f"p{i:04d}-s0" for i in range(units)], dtype=object)[unit],
            "layer": layer, "site": [f"transformer_blocks.{i}.attn" for i in layer], "head": head, "rank": 0,
            "key": key, "segment": np.where(image, "image", "text"),
            "position": np.where(image, key, key - 4096), "token": pd.Series(np.where(image, None, "word")),
            "role": pd.Series(np.where(image, None, "content")),
            "encoder": pd.Series(np.where(image, None, "text_encoder_3")),
            "image_row": pd.Series(np.where(image, key // 64, 0)).astype("Int64"),
            "image_column": pd.Series(np.where(image, key % 64, 0)).astype("Int64"), "mass": mass,
            "times_uniform": mass * np.full(mass.shape, keys), "queries": "image", "evaluation": step,
            "arm": "baseline",
        }
    )  # fmt: skip


def test_the_trace_of_a_large_model_is_small(tmp_path: Path) -> None:
    """Three layers of a large model are recorded by default; all 24 where asked for."""
    sizes = {}
    for layers in (3, 24):
        frame = sd3_trace(layers)
        write_table(tmp_path / "traces.parquet", frame)
        sizes[layers] = (tmp_path / "traces.parquet").stat().st_size / 2
        assert read_table(tmp_path / "traces.parquet")["times_uniform"].equals(frame["times_uniform"])
    assert sizes[3] < 60_000
    assert sizes[24] < 400_000
    assert SMALL_MODEL < 2e9  # SD3 counts as large
