"""Distances between arms of a finished run: computed once, kept, and refused where images are too few."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.metrics.test_features import tiny_dino
from tests.study.small import tiny_study

from sinkscope import cli, stats
from sinkscope.errors import MissingWeightsError, StoreError, UsageError
from sinkscope.metrics import distances
from sinkscope.study import Run, Study, _validate, run

SHAPES = {"kid": {"checkpoint": "shapes"}, "cmmd": {"checkpoint": "shapes"}}
SHAPES_KID = {"kid": SHAPES["kid"]}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_run_gets_distances_between_its_arms(copy: Run) -> None:
    before = copy.scores()
    copy.score(["kid", "cmmd"], options=SHAPES, progress=False)
    table = copy.distances()
    contrasts = copy.effects()[["arm", "reference"]].drop_duplicates()
    assert len(table) == 2 * len(contrasts)
    assert set(zip(table["arm"], table["reference"], strict=True)) == set(
        contrasts.itertuples(index=False, name=None)
    )
    assert (
        (table["status"] == "ok").all()
        and (table["n_prompts"] == 5).all()
        and (table["dimension"] == 64).all()
    )
    row = table[(table["metric"] == "kid") & (table["arm"] == "sink_3")].iloc[0]
    backbone = distances.features("kid", checkpoint="shapes")
    x, y = (backbone(list(copy.images(arm).values())) for arm in ("sink_3", "baseline"))
    expected = stats.paired_mmd(x, y, [unit.prompt.id for unit in copy.plan.units], draws=200)
    assert tuple(row[["value", "ci_low", "ci_high", "p_swap"]]) == pytest.approx(tuple(expected), abs=1e-12)
    assert before.equals(copy.scores())
    # Arms whose images are those of the baseline lie at 0 from it.
    null = table[(table["arm"] == "null") & (table["reference"] == "baseline")]
    assert null["value"].to_numpy() == pytest.approx(0, abs=1e-9)


def test_a_study_may_name_distances(copy: Run, tmp_path: Path, pipe, monkeypatch) -> None:
    assert set(distances.DISTANCES) == set(_validate.SET_DISTANCES)
    plain = tiny_study()
    study = replace(plain, metrics=(*plain.metrics, "kid"), metric_options=SHAPES_KID)
    assert (study.metrics, study.distances) == (plain.metrics, ("kid",)) and study.hash == plain.hash
    assert Study.from_dict(study.to_dict()) == study
    again = run(study, copy.folder, pipe=pipe, progress=False)
    assert set(again.distances()["metric"]) == {"kid"} and again.study.distances == ("kid",)
    monkeypatch.setattr(stats, "paired_mmd", None)  # any new computation would fail
    assert run(study, copy.folder, pipe=pipe, progress=False).scores().equals(copy.scores())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"distances": ("fid",)}, UsageError, "Unknown distance 'fid'"),
        ({"metrics": ("fd_dinov2",)}, MissingWeightsError, "hf download facebook/dinov2-large"),
        ({"metrics": ("kid",), "metric_options": SHAPES_KID, "arms": {}}, UsageError, "compares no arms"),
    ],
)
def test_a_study_with_distances_is_refused_before_it_is_generated(change, error, message, tmp_path, pipe):
    with pytest.raises(error, match=message):
        run(tiny_study(**{"margins": {}, **change}), tmp_path / "run", pipe=pipe, progress=False)
    assert not (tmp_path / "run").exists()


def test_rows_are_computed_once_and_others_are_kept(copy: Run, monkeypatch) -> None:
    copy.score(["kid"], options=SHAPES_KID, progress=False)
    first = copy.distances()
    monkeypatch.setattr(stats, "paired_mmd", None)  # any new computation would fail
    copy.score(["kid"], options=SHAPES_KID, progress=False)
    assert copy.distances().equals(first)
    monkeypatch.undo()
    copy.score(["cmmd"], options={"cmmd": {"checkpoint": "shapes"}}, progress=False)
    both = copy.distances()
    assert both[both["metric"] == "kid"].reset_index(drop=True).equals(first)


def test_too_few_images_for_a_frechet_distance(copy: Run, tmp_path: Path) -> None:
    options = {"fd_dinov2": {"checkpoint": tiny_dino(tmp_path / "dino")}}
    copy.score(["fd_dinov2"], options=options, progress=False)
    table = copy.distances()
    assert table["value"].isna().all() and table["p_swap"].isna().all()
    assert (
        table["status"]
        .iloc[0]
        .startswith("fd_dinov2 of 5 images with 16 features: the covariance has rank 4 of 16")
    )


def test_few_images_are_called_biased() -> None:
    from sinkscope.study._distances import _row

    x, y = np.random.default_rng(0).normal(size=(2, 30, 4))
    row = _row("fd_clip", x, y, [str(i) for i in range(30)], tiny_study())
    assert row["status"] == "ok" and row["value"] == pytest.approx(stats.frechet(x, y))
    assert row["note"].startswith("biased upwards: 30 images for 4 features")
    x, y = np.random.default_rng(0).normal(size=(2, 40, 4))
    assert _row("fd_clip", x, y, [str(i) for i in range(40)], tiny_study())["note"] == ""


def test_missing_weights_cost_their_own_rows(copy: Run, capsys) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        copy.score(["kid", "fd_dinov2"], options=SHAPES_KID, progress=False)
    assert "1 of 4 metrics could not be computed" in str(caught.value)
    assert "fd_dinov2: Checkpoint 'facebook/dinov2-large' (1.2 GB) is not on this machine" in str(
        caught.value
    )
    assert "hf download facebook/dinov2-large" in str(caught.value)
    assert set(copy.distances()["metric"]) == {"kid"}
    capsys.readouterr()
    line = ["score", str(copy.folder), "--metrics", "kid", "--option", "kid.checkpoint=shapes", "--quiet"]
    assert cli.main(line) == 0
    assert "distances between sets" in capsys.readouterr().out


def test_a_changed_image_is_refused(copy: Run) -> None:
    path = copy.folder / "units" / "sink_1" / f"{copy.plan.units[0].id}.png"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(StoreError, match="is not the image that was generated"):
        copy.score(["kid"], options=SHAPES_KID, progress=False)


def test_nothing_to_compare(tmp_path: Path, pipe) -> None:
    alone = run(tiny_study(arms={}), tmp_path / "alone", pipe=pipe, progress=False)
    with pytest.raises(UsageError, match="compares no arms"):
        alone.score(["kid"], options=SHAPES_KID, progress=False)
