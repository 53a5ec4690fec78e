"""Studies of models that read: arrays instead of images, from the plan to the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from tests.study.small import tiny_study

import sinkscope as sk
from sinkscope import report
from sinkscope.errors import NonFiniteError, StoreError, UsageError
from sinkscope.report._beside import Side, differences
from sinkscope.report._data import read
from sinkscope.shapes.language.stories import KEPT_FOR_TESTS, story
from sinkscope.study import Run, Study, run
from sinkscope.study import _outputs as outputs

SINK = sk.Edit(sk.TopMass(keys_per_head=2), sk.Mask())
ARMS = {"sink": SINK, "random": SINK.control("count"), "null": SINK.control("null")}
TEXTS = [" ".join(story(KEPT_FOR_TESTS + index).split()[:24]) for index in range(5)]
SETTINGS: dict[str, Any] = {
    "prompts": TEXTS,
    "arms": ARMS,
    "metrics": ("loss", "top1"),
    "margins": {"loss": 0.05},
    "draws": 200,
    "batch": 3,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    home = tmp_path_factory.mktemp("runs")
    studies = {
        "autoregressive": Study(model="shapes-lm", steps=1, **SETTINGS),
        "masked": Study(model="shapes-mdlm", steps=3, **SETTINGS),
    }
    yield {name: run(study, home / name, progress=False) for name, study in studies.items()}


def test_arrays_are_kept_as_the_model_gave_them(runs: dict[str, Run]) -> None:
    made = runs["masked"]
    units = made.plan.units
    pipe = sk.load("shapes-mdlm")
    read = pipe(
        [unit.prompt.text for unit in units[:3]],
        num_inference_steps=3,
        generator=[unit.generator() for unit in units[:3]],
    ).arrays
    kept = made.arrays("baseline")
    assert list(kept) == [unit.id for unit in units]
    for unit, entry in zip(units, read, strict=False):
        assert set(kept[unit.id]) == set(entry) == {"loss", "predicted", "target", "step"}
        for name, value in entry.items():
            assert kept[unit.id][name].dtype == value.dtype and (kept[unit.id][name] == value).all()
    path = made.folder / "units" / "sink" / f"{units[0].id}.safetensors"
    assert (load_file(path)["loss"] == made.arrays("sink")[units[0].id]["loss"]).all()
    assert made.record["resolved"]["output"] == "arrays"


def test_scores_follow_from_the_arrays(runs: dict[str, Run]) -> None:
    for made in runs.values():
        scores = made.scores().set_index(["metric", "arm", "unit"])["value"]
        for unit in made.plan.units:
            mine, base = made.arrays("sink")[unit.id], made.arrays("baseline")[unit.id]
            assert scores["loss", "sink", unit.id] == pytest.approx(mine["loss"].astype(float).mean())
            agree = (mine["predicted"] == base["predicted"]).mean()
            assert scores["top1", "sink", unit.id] == pytest.approx(agree)
        effects = made.effects().set_index(["metric", "contrast", "task"])["effect"]
        change = scores["loss", "sink"].mean() - scores["loss", "baseline"].mean()
        assert effects["loss", "sink - baseline", "all"] == pytest.approx(change)
        assert effects["loss", "null - baseline", "all"] == 0
    steps = runs["masked"].traces()["step"]
    assert sorted(steps.unique()) == [0, 1, 2] and runs["autoregressive"].traces()["step"].max() == 0


def test_a_damaged_file_is_found_and_made_again(runs: dict[str, Run], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs["autoregressive"].folder, tmp_path / "copy")
    copy = Run.open(tmp_path / "copy")
    unit = copy.plan.units[1].id
    path = copy.folder / "units" / "random" / f"{unit}.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:40])
    with pytest.raises(StoreError, match="is damaged .40 bytes.*only the damaged files are made anew"):
        copy.arrays("random")[unit]
    again = run(Study(model="shapes-lm", steps=1, **SETTINGS), copy.folder, progress=False)
    assert path.read_bytes() == before
    pd.testing.assert_frame_equal(again.scores(), runs["autoregressive"].scores())


def test_a_run_says_which_of_the_two_it_holds(runs: dict[str, Run]) -> None:
    with pytest.raises(UsageError, match=r"are arrays: use run.arrays\('sink'\) instead"):
        runs["masked"].images("sink")
    with pytest.raises(UsageError, match="Unknown arm 'sunk'"):
        runs["masked"].arrays("sunk")


def test_metrics_of_the_other_kind_are_refused_before_anything_runs(
    runs: dict[str, Run], tmp_path: Path, pipe: Any
) -> None:
    study = Study(model="shapes-lm", prompts=TEXTS, steps=1, metrics=("rmse",))
    with pytest.raises(UsageError, match="'rmse' scores images, but the units of this model are arrays of a"):
        run(study, tmp_path / "one", progress=False)
    assert not (tmp_path / "one").exists()
    study = tiny_study(metrics=("loss",), margins={})
    with pytest.raises(UsageError, match="'loss' scores arrays of a model that reads, but the units of this"):
        run(study, tmp_path / "two", progress=False, pipe=pipe)
    with pytest.raises(Exception, match="ssim: Metric 'ssim' scores images"):
        runs["masked"].score(["ssim"], progress=False)
    assert set(runs["masked"].scores()["metric"]) == {"loss", "top1"}


def test_the_wrong_number_of_passes_is_one_sentence(tmp_path: Path) -> None:
    study = Study(model="shapes-lm", prompts=TEXTS, metrics=("loss",))
    with pytest.raises(
        UsageError, match="reads in one forward pass, got num_inference_steps=20. Set steps=1"
    ):
        run(study, tmp_path / "run", progress=False)


def test_what_a_pipeline_may_return() -> None:
    class Reads:
        output_kind = "arrays"

    units = [SimpleNamespace(id="u0"), SimpleNamespace(id="u1")]
    good = {"loss": np.zeros(3)}
    given = SimpleNamespace(arrays=[good, good])
    assert outputs.arrays_of(Reads(), given, units) == [good, good]  # type: ignore[arg-type]
    for wrong in (
        SimpleNamespace(images=[]),
        SimpleNamespace(arrays=[good]),
        SimpleNamespace(arrays=[good, {}]),
    ):
        with pytest.raises(UsageError, match="without one mapping of arrays per unit"):
            outputs.arrays_of(Reads(), wrong, units)  # type: ignore[arg-type]
    bad = SimpleNamespace(arrays=[good, {"loss": np.array([1.0, np.nan])}])
    with pytest.raises(NonFiniteError, match="array 'loss' of unit 'u1' holds NaN"):
        outputs.arrays_of(Reads(), bad, units)  # type: ignore[arg-type]
    Reads.output_kind = "sounds"
    with pytest.raises(UsageError, match="output_kind='sounds': expected 'image' or 'video' or 'arrays'"):
        outputs.kind_of(Reads())


def test_equal_arrays_give_equal_bytes() -> None:
    one = {"b": np.arange(3), "a": np.ones((2, 2), dtype=np.float32)}
    other = {"a": np.asfortranarray(one["a"]), "b": one["b"].copy()}
    assert outputs.to_bytes(one) == outputs.to_bytes(other)
    assert outputs.to_bytes(Image.new("RGB", (2, 2)))[:4] == b"\x89PNG"


def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    """Any causal language model of transformers, with its own tokenizer."""
    from sinkscope.shapes.language import AutoregressiveReader

    shipped = sk.load("shapes-lm")
    mine = AutoregressiveReader(shipped.transformer, shipped.tokenizer)
    made = run(Study(model="mine", steps=1, **SETTINGS), tmp_path / "run", progress=False, pipe=mine)
    assert made.scores()["status"].eq("ok").all()
    assert torch.device(mine.device).type == "cpu"


# ---- pages


def test_the_page_of_a_run_without_images(runs: dict[str, Run]) -> None:
    page = runs["autoregressive"].report().read_text(encoding="utf-8")
    assert "top-1 agreement" in page and "arrays of a model that reads.<" in page
    assert "changes the image" not in page


def test_two_runs_beside_each_other(runs: dict[str, Run], tmp_path: Path) -> None:
    folders = {name: made.folder for name, made in runs.items()}
    page = report.build_beside(folders, tmp_path / "beside.html").read_text(encoding="utf-8")
    for words in ("autoregressive beside masked", "Does it change one more than the other?", "shapes-mdlm"):
        assert words in page
    assert page.count("<svg") == 5 and "http://" not in page.replace("http://www.w3.org", "")
    sides = [Side(name, read(folder)) for name, folder in folders.items()]
    found = differences(sides).set_index(["of", "metric"])["effect"]
    by = {
        name: made.scores().pivot_table(index=["metric", "prompt_id"], columns="arm", values="value")
        for name, made in runs.items()
    }
    change = {name: (table["sink"] - table["random"])["loss"].mean() for name, table in by.items()}
    expected = change["masked"] - change["autoregressive"]
    assert found["sink \u2212 random", "loss"] == pytest.approx(expected)
    with pytest.raises(UsageError, match="Got 1 run to set beside each other"):
        report.build_beside(dict(list(folders.items())[:1]), tmp_path / "one.html")
