"""Studies of text-to-video pipelines: every frame kept, from the plan to the page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tests.study.small import results, tiny_study
from tests.study.test_memory import ERRORS, Limit
from tests.zoo import SPECIMENS
from tests.zoo.video import cogvideox

import sinkscope as sk
import sinkscope.study._pipeline as painting
import sinkscope.study._sharing as sharing_module
from sinkscope import metrics, report
from sinkscope.cli import main
from sinkscope.errors import NonFiniteError, SinkscopeError, StoreError, UsageError
from sinkscope.models import Edit
from sinkscope.study import Run, Study, _video, run
from sinkscope.study import _outputs as outputs
from sinkscope.study._default_arms import default_arms
from sinkscope.study._sharing import Sharing

TEXTS = ("a cat", "<b>a</b>", "x y z")
METRICS = ("rmse", "ssim", "psnr", "frame_change", "frame_change_rmse")
CASES: dict[str, tuple[Callable[[], Any], str | None, tuple[int, int, int]]] = {
    "joint": (lambda: cogvideox(text=226), None, (9, 32, 48)),
    "by turns": (SPECIMENS["animatediff"].build, "temporal", (4, 16, 16)),
}
"""Builder, kind of site that is edited, and frames, height and width. The second folds frames and places into
rows by turns."""


def study_of(case: str, **changes: Any) -> Study:
    _, kind, (frames, height, width) = CASES[case]
    sink = Edit(sk.TopMass(keys_per_head=1), kind=kind)
    late = Edit(sk.TopMass(keys_per_head=1), kind=kind, steps=[1])
    arms = {"null": sink.control("null"), "sink": sink, "random": sink.control("count"), "late": late}
    given: dict[str, Any] = {"model": "tiny", "prompts": TEXTS, "arms": arms, "metrics": METRICS}
    if case == "by turns":
        given["observe"] = {"kind": "all"}
    given |= {"steps": 2, "height": height, "width": width, "frames": frames, "batch": 2, "draws": 200}
    return Study(**{**given, **changes})


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {case: build() for case, (build, _, _) in CASES.items()}


@pytest.fixture(scope="module")
def runs(pipes: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    home = tmp_path_factory.mktemp("videos")
    return {
        case: run(study_of(case), home / case.replace(" ", "-"), pipe=pipe, progress=False)
        for case, pipe in pipes.items()
    }


# ---- files


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_frame_comes_back_exactly(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.just(3)))
    video = data.draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 128, 255])))
    # Frames that stand still, at the start, in the middle and at the end.
    video = video[data.draw(st.lists(st.integers(0, len(video) - 1), min_size=1, max_size=7))]
    written = _video.to_bytes(video)
    assert written == _video.to_bytes(video.copy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sinkscope.study._files.read_bytes", lambda _: written)
        back = _video.read(Path("unit.apng"))
    assert back.dtype == np.uint8 and np.array_equal(back, video)


def test_a_damaged_video_is_an_error(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    whole = _video.to_bytes(video)
    path = tmp_path / "unit.apng"
    for data in (b"", b"no picture", whole[:60], whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(StoreError, match="damaged video.*only the damaged videos are generated anew"):
            outputs.read(path)
    with pytest.raises(StoreError, match="is missing"):
        outputs.read(tmp_path / "other.apng")


# ---- generating


@pytest.mark.parametrize("case", CASES)
def test_a_run_keeps_what_the_pipeline_gives(
    case: str, runs: Mapping[str, Run], pipes: Mapping[str, Any]
) -> None:
    made, pipe = runs[case], pipes[case]
    units, (frames, height, width) = made.plan.units, CASES[case][2]
    with sk.observe(
        pipe, kind=None if case == "joint" else "all", units=[unit.id for unit in units[:2]]
    ) as seen:
        direct = pipe(
            prompt=[unit.prompt.text for unit in units[:2]],
            generator=[unit.generator() for unit in units[:2]],
            output_type="np",
            num_inference_steps=2,
            height=height,
            width=width,
            num_frames=frames,
        ).frames
    kept = made.videos("baseline")
    assert list(kept) == [unit.id for unit in units] and len(kept) == 3
    for unit, video in zip(units, direct, strict=False):
        assert kept[unit.id].shape == (frames, height, width, 3)
        assert np.array_equal(kept[unit.id], (np.asarray(video) * 255).round().astype(np.uint8))
        assert len(np.unique(kept[unit.id])) > 20, "the tiny pipeline paints nothing"
    ours = made.traces()
    ours = ours[ours["unit"].isin([unit.id for unit in units[:2]])].drop(columns="arm").reset_index(drop=True)
    theirs = seen.sinks(keys_per_head=1)
    assert {"unit", "frame"} <= set(ours.columns) and ("repeat" in ours.columns) == (case == "by turns")
    theirs = theirs.assign(**{name: theirs[name].astype("str") for name in ("token", "role", "encoder")})
    pd.testing.assert_frame_equal(ours[list(theirs.columns)], theirs, check_dtype=False)
    record = made.record
    assert (record["frames"], record["resolved"]["output"]) == (frames, "video")
    assert Study.from_yaml(made.folder / "study.yaml") == study_of(case)
    receipts = made.receipts()
    edited = receipts[receipts["arm"] == "sink"]
    assert set(edited["unit"]) == set(kept) and (edited["keys"] == 1).all()
    assert (edited["mass_after"] < edited["mass_before"]).all()
    moved = [not np.array_equal(video, kept[unit]) for unit, video in made.videos("sink").items()]
    assert all(moved), "the edit changed no video"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_arms_share_changes_no_bit(
    case: str, runs: Mapping[str, Run], pipes: Mapping[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shared = runs[case].record["shared"]
    assert shared["images"] == {"null": {"of": "baseline", "equal": 3, "generated": 0}}
    assert shared["first_steps"] == {"late": "baseline"}
    monkeypatch.setattr(sharing_module, "sharing", lambda *_: Sharing())
    whole = run(study_of(case), tmp_path / "whole", pipe=pipes[case], progress=False)
    assert whole.record["shared"]["images"] == {}
    ours, theirs = results(runs[case].folder), results(whole.folder)
    differ = {name.rsplit("/")[-1] for name in ours if ours[name] != theirs[name]}
    assert differ <= {"study.yaml", "done.json"} and ours.keys() == theirs.keys()


def test_a_run_that_was_cut_off_ends_with_the_same_bytes(
    runs: Mapping[str, Run], pipes: Mapping[str, Any], tmp_path: Path
) -> None:
    copy = shutil.copytree(runs["by turns"].folder, tmp_path / "run")
    before = results(copy)
    damaged, lost, *_ = sorted((copy / "units" / "sink").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-40])
    lost.unlink()
    sorted(copy.glob("shards/*/late/done.json"))[0].unlink()
    run(study_of("by turns"), copy, pipe=pipes["by turns"], progress=False)
    assert results(copy) == before


def test_a_batch_that_does_not_fit_is_halved(
    pipes: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit(1, ERRORS[0])
    monkeypatch.setattr(painting, "paint", limit)
    sink = study_of("by turns").arms["sink"]
    changes: dict[str, Any] = {"metrics": (), "observe": None, "arms": {"sink": sink}}
    made = run(study_of("by turns", **changes), tmp_path / "run", pipe=pipes["by turns"], progress=False)
    assert made.record["shared"]["units_at_once"] == {"00000": 1}
    assert {size for arm, size in limit.sizes if arm == "sink"} == {1}
    assert all(len(made.videos(arm)) == 3 for arm in made.plan.arms)


def test_attention_over_time_is_watched_and_edited_where_it_is_named(
    pipes: Mapping[str, Any], tmp_path: Path
) -> None:
    pipe = pipes["by turns"]
    kinds = {site.layer: site.kind for site in sk.sites(pipe) if site.layer is not None}
    assert "temporal" in kinds.values() and {"self", "cross"} & set(kinds.values())
    changes: dict[str, Any] = {"metrics": (), "arms": {}, "prompts": TEXTS[:1], "observe": {"units": 1}}
    made = run(study_of("by turns", **changes), tmp_path / "run", pipe=pipe, progress=False)
    layers = made.record["resolved"]["observe"]["layers"]
    assert layers == sorted(layer for layer, kind in kinds.items() if kind != "temporal")
    assert set(made.traces()["layer"]) == set(layers)
    assert not [arm for arm in default_arms(sk.sites(pipe)) if arm.startswith("temporal")]
    only = [site for site in sk.sites(pipe) if site.kind == "temporal"]
    assert "temporal_sink_1" in default_arms(only)


# ---- scoring


def test_scores_are_means_over_frames(runs: Mapping[str, Run]) -> None:
    made = runs["joint"]
    scores = made.scores().set_index(["metric", "arm", "unit"])["value"].sort_index()
    ssim = metrics.get("ssim")
    for unit, video in made.videos("sink").items():
        reference = made.videos("baseline")[unit]
        pairs = list(zip(video.astype(float), reference.astype(float), strict=True))
        rmse = np.mean([np.sqrt(np.mean((a - b) ** 2)) / 255 for a, b in pairs])
        assert scores["rmse", "sink", unit] == pytest.approx(rmse, rel=1e-12) and rmse > 0
        frames = [[Image.fromarray(frame) for frame in each] for each in (video, reference)]
        alike = ssim.score(frames[0], reference=frames[1])
        assert scores["ssim", "sink", unit] == pytest.approx(alike.mean(), rel=1e-12)
        change = np.abs(np.diff(video.astype(float), axis=0)).mean() / 255
        assert scores["frame_change", "sink", unit] == pytest.approx(change, rel=1e-12)
    assert (scores["rmse", "null"] == 0).all() and (scores["frame_change_rmse", "null"] == 0).all()
    identities = made.record["metric_identity"]
    assert identities["rmse"]["frames"] == "mean over every frame"
    assert identities["ssim"]["frames"].startswith("mean over at most 16 evenly spaced frames")
    assert "frames" not in identities["frame_change"]
    assert set(made.effects()["metric"]) == set(METRICS) - {"psnr"}


def test_a_further_metric_and_a_refused_one(runs: Mapping[str, Run], tmp_path: Path) -> None:
    made = Run(shutil.copytree(runs["by turns"].folder, tmp_path / "run"))
    assert "ms_ssim" in set(made.score(["ms_ssim"], progress=False)["metric"])
    for name, words in (
        ("loss", "'loss' scores arrays of a model that reads, but the units of this model are videos"),
        ("kid", "'kid' compares sets of independent images.*videos.*not independent of each other"),
    ):
        with pytest.raises(SinkscopeError, match=words):
            made.score([name], progress=False)


def test_a_changed_video_is_not_scored(runs: Mapping[str, Run], tmp_path: Path) -> None:
    made = Run(shutil.copytree(runs["by turns"].folder, tmp_path / "run"))
    path = sorted((made.folder / "units" / "sink").iterdir())[0]
    path.write_bytes(_video.to_bytes(255 - _video.read(path)))
    with pytest.raises(StoreError, match="is not the video that was generated"):
        made.score(["ms_ssim"], progress=False)


# ---- reading


@pytest.mark.slow
def test_a_pipeline_folder_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    SPECIMENS["wan21"].build().save_pretrained("pipeline")
    Path("prompts.txt").write_text("a cat\na dog\n")
    words = "run --model pipeline --prompts prompts.txt --steps 1 --height 32 --width 32 --out run --quiet"
    assert main([*words.split(), "--frames", "6"]) == 2
    assert "makes 4 n + 1 frames" in capsys.readouterr().err
    assert main([*words.split(), "--frames", "5"]) == 0
    made = Run.open("run")
    assert (made.record["frames"], made.record["metrics"][-1]) == (5, "frame_change")
    assert next(iter(made.videos("self_sink_1").values())).shape == (5, 32, 32, 3)
    assert Path("run/report.html").is_file()
    look = "observe pipeline --prompt cat --steps 1 --height 32 --width 32 --kind self --out sinks.parquet"
    assert main([*look.split(), "--frames", "8"]) == 2
    assert "The command sets frames=8, but WanPipeline makes 4 n + 1" in capsys.readouterr().err
    assert main([*look.split(), "--frames", "9"]) == 0
    assert set(pd.read_parquet("sinks.parquet")["frame"]) <= {0, 1, 2}


def test_each_kind_of_unit_has_its_own_method(runs: Mapping[str, Run], finished: Run) -> None:
    made = runs["by turns"]
    with pytest.raises(UsageError, match=r"are videos: use run.videos\('sink'\) instead"):
        made.images("sink")
    with pytest.raises(UsageError, match=r"are images: use run.images\('sink_1'\) instead"):
        finished.videos("sink_1")
    with pytest.raises(UsageError, match="arm"):
        made.videos("other")
    with pytest.raises(KeyError):
        made.videos("sink")["other"]


@pytest.mark.slow
def test_the_page_shows_strips(runs: Mapping[str, Run], tmp_path: Path) -> None:
    made = runs["joint"]
    page = report.build(made.folder, out=tmp_path / "report.html").read_text(encoding="utf-8")
    strips = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    assert len(strips) == 3 * 5 and "A strip shows up to 5 evenly spaced frames" in page
    assert "the lossless videos are in units/" in page and "changes the video" in page
    assert "<b>a</b>" not in page and "&lt;b&gt;a&lt;/b&gt;" in page
    assert "structural similarity to the baseline image of the same unit; mean over frames" in page
    damaged = Run(shutil.copytree(made.folder, tmp_path / "run"))
    path = sorted((damaged.folder / "units" / "sink").iterdir())[0]
    path.write_bytes(path.read_bytes()[:200])
    page = report.build(damaged.folder).read_text(encoding="utf-8")
    assert "video damaged" in page and f"units/sink/{path.name} cannot be decoded" in page


def test_a_strip_holds_the_first_and_the_last_frame(tmp_path: Path) -> None:
    from sinkscope.report._gallery import _encode, _load

    greys = range(0, 12)
    video = np.stack([np.full((6, 8, 3), 20 * grey, dtype=np.uint8) for grey in greys])
    path = tmp_path / "unit.apng"
    path.write_bytes(_video.to_bytes(video))
    frames = _load(path)
    assert [frame.getpixel((0, 0))[0] // 20 for frame in frames] == [0, 3, 6, 8, 11]
    (tmp_path / "strip.png").write_bytes(_encode(frames, 8, None))
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (5 * 8 + 4 * 2, 6) and strip.getpixel((47, 5)) == (220, 220, 220)


# ---- wrong input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 0}, "frames=0: expected a whole number from 1"),
        ({"frames": 2.5}, "frames=2.5: expected a whole number from 1"),
        ({"frames": True}, "frames=True: expected a whole number from 1"),
    ],
)
def test_what_is_no_number_of_frames(changes: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        study_of("joint", **changes)


@pytest.mark.parametrize(
    ("case", "changes", "words"),
    [
        ("joint", {"frames": 10}, r"frames=10, but CogVideoXPipeline makes 4 n \+ 1.*frames=9 or frames=13"),
        ("by turns", {"frames": 9}, "frames=9, but its motion modules have positions for 8 frames"),
        ("by turns", {"frames": None}, "leaves frames to AnimateDiffPipeline, which makes 16"),
        (
            "joint",
            {"height": 30},
            r"refused its settings: .*'height': 30, 'width': 48, 'num_frames': 9.*frames,",
        ),
        (
            "joint",
            {"metrics": ["top1"]},
            "'top1' scores arrays.*videos. Use metrics such as rmse, ssim or frame",
        ),
        ("joint", {"metrics": ["kid"]}, "'kid' compares sets of independent images"),
    ],
)
def test_what_a_pipeline_does_not_make(
    case: str, changes: Any, words: str, pipes: Mapping[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        run(study_of(case, **changes), tmp_path / "run", pipe=pipes[case], progress=False)
    assert not list(tmp_path.rglob("*.apng"))


def test_videos_are_not_asked_of_models_of_images(pipe: Any, tmp_path: Path) -> None:
    for changes, words in (
        ({"frames": 4}, "sets frames=4, but StableDiffusion3Pipeline makes no videos.*Leave frames out"),
        ({"metrics": ("frame_change",), "margins": {}}, "'frame_change' scores videos, but.*are images"),
    ):
        with pytest.raises(UsageError, match=words):
            run(tiny_study(**changes), tmp_path / "run", pipe=pipe, progress=False)


class Makes:
    """A pipeline that returns what it is told to."""

    def __init__(self, frames: Any) -> None:
        self.frames = frames

    def __call__(
        self, prompt: Any, generator: Any = None, output_type: str = "np", num_inference_steps: int = 1,
        num_frames: int = 2,
    ) -> Any:  # fmt: skip
        return SimpleNamespace(frames=self.frames)

    def set_progress_bar_config(self, **config: Any) -> None:
        self._progress_bar_config = config


def test_what_a_pipeline_may_return() -> None:
    study = Study(model="x", prompts=TEXTS[:1], steps=1, frames=2, metrics=())
    from sinkscope.study._plan import make_plan, resolve_prompts

    units = make_plan(study, resolve_prompts(study), 1).units
    good = np.zeros((1, 2, 4, 4, 3), dtype=np.float32)
    good[0, 1] = 0.5
    (video,) = painting.paint(Makes(list(good)), study, units)
    assert video.dtype == np.uint8 and video[1].max() == 128 and video[0].max() == 0
    bytes_already = (good * 255).astype(np.uint8)
    assert np.array_equal(painting.paint(Makes(bytes_already), study, units)[0], bytes_already[0])
    for frames, words in (
        (None, "without one video per prompt .in frames. for 1 prompts at once.*use batch=1"),
        (good[[0, 0]], "without one video per prompt"),
        (good[:, :, :, :, :2], r"a video of shape \(2, 4, 4, 2\) for unit 'p0000-s0'"),
        (good * 4 - 1, "numbers from -1 to 1: expected 0 to 1"),
        (good * 300, "numbers from 0 to 150: expected 0 to 1"),
        (good[:, :1], "made 1 frames where frames=2 was asked for. Use frames=1"),
    ):
        with pytest.raises(UsageError, match=words):
            painting.paint(Makes(frames), study, units)
    with pytest.raises(NonFiniteError, match="video of unit 'p0000-s0' holds NaN"):
        painting.paint(Makes(np.where(good == 0, np.nan, good)), study, units)


def test_studies_of_images_keep_their_hash(finished: Run) -> None:
    assert "frames" not in yaml.safe_load((finished.folder / "study.yaml").read_text())
    assert tiny_study().hash == finished.record["hash"] != tiny_study(frames=1).hash


def test_an_autoencoder_that_takes_one_video_at_a_time(tmp_path: Path) -> None:
    pipe = Makes(np.zeros((1, 2, 4, 4, 3), dtype=np.float32))
    assert not painting.one_at_a_time(pipe)
    pipe.vae = type("AutoencoderKLHunyuanVideo15", (), {})()  # type: ignore[attr-defined]
    assert painting.one_at_a_time(pipe)
    study = Study(model="x", prompts=TEXTS[:2], steps=1, frames=2, metrics=())
    painting.check_call(pipe, study)
    with pytest.raises(
        UsageError, match="batch=2, but the AutoencoderKLHunyuanVideo15 of Makes cannot.*batch=1"
    ):
        painting.check_call(pipe, replace(study, batch=2))


def test_prompts_of_a_processor_are_encoded_once(pipes: Mapping[str, Any]) -> None:
    """Kandinsky 5 calls a processor of pictures and text its tokenizer; that has no length."""
    from sinkscope.study._encodings import _tokenizers

    tokenizer = pipes["joint"].tokenizer
    inside = SimpleNamespace(components={"tokenizer": SimpleNamespace(tokenizer=tokenizer)})
    assert _tokenizers(inside) == _tokenizers(SimpleNamespace(components={"tokenizer": tokenizer}))


@pytest.mark.parametrize("name", ["WanImageToVideoPipeline", "KandinskyI2VPipeline", "PIAPipeline"])
def test_names_tell_which_pipelines_have_to_be_shown_something(name: str) -> None:
    assert painting._SHOWN.search(name)
    assert not painting._SHOWN.search("Kandinsky6TI2VAPipeline")  # text, a picture if you like, and sound
    assert not painting._SHOWN.search("TextToVideoSDPipeline")
