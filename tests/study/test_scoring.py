"""Scoring a finished run: what is missing is said, the rest is scored, nothing is scored twice."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.metrics.helpers import random_lpips
from tests.metrics.peer_cases import FILE, clip_tokenizer, fill
from tests.study.small import tiny_study

from sinkscope import cli
from sinkscope.errors import MissingWeightsError, SinkscopeError, StoreError, UsageError
from sinkscope.metrics import _registry
from sinkscope.metrics.convert import convert
from sinkscope.study import Run, run

SEEN: list[int] = []
"""How many images each call of the plugin got."""


class Brightness:
    """A plugin that counts what it is given; `fail` makes it stop at the n-th call."""

    name = "brightness"
    direction = "none"
    needs = frozenset({"prompt"})

    def __init__(self, *, version: int = 1, fail: int = 0, nan: str = "") -> None:
        self.version, self.fail, self.nan = version, fail, nan

    def identity(self) -> dict[str, Any]:
        return {"metric": self.name, "version": self.version}

    def notes(self, prompts: Any) -> list[str]:
        return ["prompt cut from 9 to 7 tokens" if "hat" in prompt.text else "" for prompt in prompts]

    def score(self, images: Any, prompts: Any = None, reference: Any = None) -> Any:
        if self.fail and len(SEEN) + 1 >= self.fail:
            raise KeyboardInterrupt
        SEEN.append(len(images))
        values = np.array([np.asarray(image, dtype=float).mean() for image in images])
        return np.where([prompt.id == self.nan for prompt in prompts], np.nan, values)


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, no network, and the plugin."""
    SEEN.clear()
    monkeypatch.setenv("SINKSCOPE_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    point = EntryPoint("brightness", "tests.study.test_scoring:Brightness", _registry.GROUP)
    monkeypatch.setattr(_registry, "entry_points", lambda group: [point])
    # Under importlib mode the entry point would import this file a second time, with a list of its own.
    monkeypatch.setattr(EntryPoint, "load", lambda self: Brightness)
    return tmp_path / "weights"


def tiny_hps(tmp_path: Path) -> Path:
    shapes = json.loads(FILE.read_text())["hps"]["shapes"]
    torch.save({"state_dict": fill(shapes)}, tmp_path / "HPS_v2.1_compressed.pt")
    return convert(
        "hps", [tmp_path / "HPS_v2.1_compressed.pt"], tokenizer=str(clip_tokenizer(tmp_path / "w"))
    )


def test_missing_weights_are_said_and_the_others_are_scored(copy: Run, tmp_path: Path) -> None:
    tiny_hps(tmp_path)
    with pytest.raises(MissingWeightsError) as caught:
        copy.score(["clip", "lpips", "hps", "imagereward", "psnr"], progress=False)
    text = str(caught.value)
    assert "3 of 7 metrics could not be computed; the others were scored" in text
    assert "openai/clip-vit-base-patch32' (605 MB)" in text and "hf download openai/clip-vit" in text
    assert "alexnet-owt-7be5be79.pth (244 MB) and alex.pth (6 KB)" in text
    assert "ImageReward.pt (1.8 GB)" in text and "sinkscope convert imagereward" in text
    scores = copy.scores()
    assert set(scores["metric"]) == {"ssim", "rmse", "hps", "psnr"} and (scores["status"] == "ok").all()
    assert copy.record["metrics"] == ["ssim", "rmse", "hps", "psnr"]
    # PSNR has no effect: the baseline's image has none to itself.
    assert "hps" in set(copy.effects()["metric"]) and "psnr" not in set(copy.effects()["metric"])
    assert copy.record["metric_identity"]["hps"]["checkpoint"] == "hps-v2.1"


def test_the_command_ends_with_1_and_shows_what_was_scored(
    copy: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", str(copy.folder), "--metrics", "imagereward,brightness", "--quiet", "--device", "cpu"]
    assert cli.main(command) == 1
    caught = capsys.readouterr()
    assert "1 of 4 metrics could not be computed" in caught.err and "Traceback" not in caught.err
    assert "brightness" in caught.out and "scores.parquet" in caught.out
    assert cli.main(["score", str(copy.folder), "--metrics", "brightness", "--quiet"]) == 0
    assert cli.main(["score", str(copy.folder), "--metrics", "britness"]) == 2
    assert "Did you mean 'brightness'" in capsys.readouterr().err
    command = ["score", str(copy.folder), "--option", "imagereward.batch=2", "--metrics", "psnr"]
    assert cli.main(command) == 2


def test_nothing_is_scored_twice(copy: Run) -> None:
    copy.score(["brightness"], progress=False)
    # 6 arms of 5 images; the null arm has the baseline's images.
    assert SEEN == [5, 5, 5, 5, 5]
    before = copy.scores()
    copy.score(["brightness"], progress=False)
    assert len(SEEN) == 5
    pd.testing.assert_frame_equal(copy.scores(), before)
    copy.score(["brightness"], options={"brightness": {"version": 2}}, progress=False)
    assert len(SEEN) == 10
    copy.score(["brightness"], options={"brightness": {"version": 1}}, progress=False)
    assert len(SEEN) == 10


def test_a_stage_that_was_cut_off_continues(copy: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        copy.score(["brightness"], options={"brightness": {"fail": 4}}, progress=False)
    assert SEEN == [5, 5, 5]
    copy.score(["brightness"], options={"brightness": {"fail": 0}}, progress=False)
    assert SEEN == [5, 5, 5, 5, 5]


def test_notes_on_prompts_are_kept_and_said(copy: Run, capsys: pytest.CaptureFixture[str]) -> None:
    copy.score(["brightness"])
    noted = copy.scores().query("metric == 'brightness' and note != ''")
    assert set(noted["prompt"]) == {"a red hat"} and set(noted["note"]) == {"prompt cut from 9 to 7 tokens"}
    assert len(noted) == 6 and (noted["status"] == "ok").all()
    assert "brightness: 1 of 5 prompts have a remark, the first p0002" in capsys.readouterr().err


def test_a_metric_that_refuses_every_image_is_left_out(copy: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lpips": {"checkpoint": str(random_lpips(tmp_path))}}
    with pytest.raises(SinkscopeError, match="1 of 3 .*\n  lpips: Not one of 30 images .*16x16.* 31 or more"):
        copy.score(["lpips"], options=options, progress=False)
    assert set(copy.scores()["metric"]) == {"ssim", "rmse"} == set(copy.record["metrics"])


def test_scores_of_absent_weights_are_kept(copy: Run, tmp_path: Path, capsys: Any) -> None:
    folder = tiny_hps(tmp_path)
    copy.score(["hps"], progress=False)
    before = copy.scores()
    shutil.rmtree(folder)
    copy.score(["psnr"])
    assert "note: hps: its weights are not here; the scores made before are kept" in capsys.readouterr().err
    old = copy.scores().query("metric == 'hps'").reset_index(drop=True)
    pd.testing.assert_frame_equal(old, before.query("metric == 'hps'").reset_index(drop=True))


def test_a_wrong_folder_costs_only_its_own_metric(copy: Run, tmp_path: Path) -> None:
    tiny_hps(tmp_path)
    copy.score(["hps"], progress=False)
    before = copy.record
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "model.safetensors").write_bytes(b"")
    wrong: dict[str, Any] = {"hps": {"checkpoint": str(tmp_path / "plain")}}
    with pytest.raises(SinkscopeError, match="1 of 4 .*earlier score is kept.\n  hps: .*was not written by"):
        copy.score(["psnr"], options=wrong, progress=False)
    assert set(copy.scores()["metric"]) == {"ssim", "rmse", "hps", "psnr"}
    assert copy.record["metric_identity"]["hps"] == before["metric_identity"]["hps"]
    assert copy.record["metric_options"] == before["metric_options"]
    with pytest.raises(UsageError, match="expected one of the metrics scored"):
        copy.score(["psnr"], options={"imagereward": {"batch": 1}}, progress=False)


def test_all_damaged_images_are_one_error_and_the_rest_is_kept(copy: Run) -> None:
    for arm, unit in (("sink_1", "p0001-s0"), ("sink_3", "p0002-s0")):
        (copy.folder / "units" / arm / f"{unit}.png").write_bytes(b"no image")
    Image.new("RGBA", (16, 16)).save(copy.folder / "units" / "null" / "p0000-s0.png")
    with pytest.raises(StoreError, match=r"p0001-s0.png is a damaged image.* 1 more images are damaged"):
        copy.score(["brightness"], progress=False)
    # The null arm's image is not read: its score is that of the baseline's, by its recorded hash.
    assert SEEN == [5, 4, 5, 4, 5]


def test_scores_that_are_no_numbers_have_a_reason(copy: Run, capsys: pytest.CaptureFixture[str]) -> None:
    copy.score(["brightness"], options={"brightness": {"nan": "p0001"}})
    said = r"note: brightness: no effect of null - baseline and \d+ more: 1 of 5 pairs missing .*refused"
    assert re.search(said, capsys.readouterr().err)
    effects = copy.effects().query("task == 'all'").set_index("metric")
    assert (
        effects.loc["brightness", "note"].str.contains("1 of 5 pairs missing .* refused: at least 98%").all()
    )
    assert effects.loc["brightness", "effect"].isna().all()
    assert not effects.drop("brightness")["note"].str.contains("refused").any()
    rows = copy.scores().query("metric == 'brightness'")
    bad = rows[rows["value"].isna()]
    assert set(bad["unit"]) == {"p0001-s0"} and len(bad) == 6
    assert set(bad["status"]) == {"brightness gave nan, expected a finite number"}
    assert (copy.scores().query("unit != 'p0001-s0'")["status"] == "ok").all()


def test_a_study_is_refused_before_it_is_generated(tmp_path: Path, pipe: Any) -> None:
    with pytest.raises(MissingWeightsError, match="sinkscope convert hps"):
        run(tiny_study(metrics=("hps",), margins={}), tmp_path / "run", pipe=pipe, progress=False)
    assert not (tmp_path / "run").exists()
