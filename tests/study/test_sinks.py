"""What a run says about its sinks, end to end on a tiny pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.study.small import SINK, results, tiny_study

from sinkscope.errors import UsageError
from sinkscope.study import ObservePlan, Run, run

SETTINGS: dict[str, Any] = {"prompts": ("a cat", "a red hat"), "seeds": (0, 1), "arms": {"sink_1": SINK}}


@pytest.fixture(scope="module")
def watched(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    study = tiny_study(observe=ObservePlan(replacements=2), **SETTINGS)
    return run(study, tmp_path_factory.mktemp("watched") / "run", pipe=pipe, progress=False)


def test_the_tables_of_a_run_agree_with_each_other(watched: Run) -> None:
    sinks, shares = watched.sinks(), watched.identity(by=("branch", "layer"))
    assert len(sinks) == len(watched.traces()) and sinks["persistence"].between(0.5, 1).all()
    sums = shares.groupby(["of", "queries", "branch", "layer"])["share"].sum()
    np.testing.assert_allclose(sums, 1)
    assert set(shares["of"]) == {"sinks", "sink mass", "mass", "keys"}
    assert set(shares.loc[shares["of"] == "mass", "queries"]) == {"image", "text", "balanced"}
    assert set(shares["n_prompts"]) == {2} and set(shares["n_units"]) == {4}
    told = shares[(shares["of"] == "mass") & (shares["queries"] == "image") & (shares["segment"] == "text")]
    ours = told.groupby(["branch", "layer"])["share"].sum()
    theirs = watched.summary().groupby(["branch", "layer"])["mass_text"].mean()
    np.testing.assert_allclose(ours, theirs.reindex(ours.index), rtol=1e-4)


def test_overlap_and_compensation_of_a_run(watched: Run) -> None:
    table = watched.overlap()
    assert set(table["between"]) == {"next step", "steps", "layers", "branches", "seeds", "prompts"}
    assert table["jaccard"].between(0, 1).all() and (table["chance_jaccard"] > 0).all()
    assert set(watched.overlap(pairs=True)["between"]) == {"steps", "layers"}
    told = watched.compensation()
    assert set(told["arm"]) == {"sink_1"} and (told["removed"] > 0).all()
    first = watched.receipts().query("step == 0 and layer == 0")["mass_before"].mean()
    assert told["relative"].between(0, 10).all() and 0 < first < 1
    # At the first call of a run nothing was edited yet: the edit meets the baseline's own sinks.
    summary = watched.summary().query("step == 0 and layer == 0")["mean_top1"].mean()
    np.testing.assert_allclose(first, summary, rtol=1e-5)
    takers = watched.takers()
    sums = takers.groupby("branch")[["removed", "gain", "expected"]].sum()
    np.testing.assert_allclose(sums, 1, rtol=1e-4)


def test_recording_changes_no_image_and_a_lost_shard_comes_back(
    watched: Run, pipe: Any, tmp_path: Path
) -> None:
    blind = run(tiny_study(observe=None, **SETTINGS), tmp_path / "blind", pipe=pipe, progress=False)
    for arm in ("baseline", "sink_1"):
        for unit, image in blind.images(arm).items():
            assert image.tobytes() == watched.images(arm)[unit].tobytes()
    before = results(watched.folder)
    copy = Path(shutil.copytree(watched.folder, tmp_path / "copy"))
    for name in ("roles", "takeover"):
        (copy / f"{name}.parquet").unlink()
        next(iter(sorted(copy.rglob(f"shards/*/*/{name}.parquet")))).unlink()
    study = tiny_study(observe=ObservePlan(replacements=2), **SETTINGS)
    assert results(run(study, copy, pipe=pipe, progress=False).folder) == before


def test_a_run_that_recorded_nothing_says_so_by_empty_tables(pipe: Any, tmp_path: Path) -> None:
    blind = run(
        tiny_study(observe=None, prompts=("a cat",), arms={}, metrics=("ssim",), margins={}),
        tmp_path / "run", pipe=pipe, progress=False,
    )  # fmt: skip
    assert blind.roles().empty and blind.takeover().empty
    assert isinstance(blind.roles(), pd.DataFrame) and "mass" in blind.roles().columns
    for make in (blind.sinks, blind.identity, blind.overlap):
        with pytest.raises(UsageError, match="traces.parquet has no rows.*an observe plan"):
            make()
    with pytest.raises(UsageError, match="replacements of 1 or more"):
        blind.takers()
