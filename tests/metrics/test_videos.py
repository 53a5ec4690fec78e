"""Metrics of videos: those of images frame by frame, and those of what moves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tests.metrics.helpers import random_lpips, tiny_clip

from sinkscope import metrics
from sinkscope.errors import UsageError
from sinkscope.metrics import ImageError
from sinkscope.metrics._videos import AT_MOST, spaced, video_identity
from sinkscope.study._outputs import ARRAYS, IMAGE, VIDEO, takes


def noise(frames: int = 3, side: int = 12, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


def prompt(text: str) -> Any:
    return SimpleNamespace(text=text, task="t", metadata={})


VIDEOS = hnp.arrays(np.uint8, st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.just(3)))


@settings(max_examples=60, deadline=None)
@given(VIDEOS, st.integers(0, 2**32 - 1))
def test_frame_change_is_its_formula(video: Any, seed: int) -> None:
    other = np.random.default_rng(seed).integers(0, 256, video.shape, dtype=np.uint8)
    change, apart = metrics.get("frame_change"), metrics.get("frame_change_rmse")
    a, b = (np.diff(each.astype(np.float64), axis=0) / 255 for each in (video, other))
    assert change.score([video])[0] == pytest.approx(np.abs(a).mean(), rel=1e-12)
    far = apart.score([video], reference=[other])[0]
    assert far == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), rel=1e-12)
    assert 0 <= change.score([video])[0] <= 1 and 0 <= far <= 2
    # Backwards nothing changes, and what stands still has neither change nor distance.
    assert change.score([video[::-1]])[0] == pytest.approx(change.score([video])[0], rel=1e-12, abs=1e-15)
    still = np.repeat(video[:1], 3, axis=0)
    assert change.score([still])[0] == 0 and apart.score([still], reference=[255 - still])[0] == 0


def test_black_and_white_by_turns_is_the_largest_change() -> None:
    video = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    video[1::2] = 255
    assert metrics.get("frame_change").score([video])[0] == 1
    assert metrics.get("frame_change_rmse").score([video], reference=[255 - video])[0] == 2


def test_what_is_no_video_to_score() -> None:
    change = metrics.get("frame_change")
    for video, words in (
        (noise(1), "the video has 1 frame, expected 2 or more"),
        (noise()[0], r"Got uint8 \(12, 12, 3\), expected a video: uint8 \[frame, height, width, 3\]"),
        (noise().astype(np.float32), r"Got float32 \(3, 12, 12, 3\)"),
        (Image.new("RGB", (4, 4)), "expected a video"),
        (noise()[:0], "expected a video"),
    ):
        with pytest.raises(ImageError, match=words):
            change.score([video])
    apart = metrics.get("frame_change_rmse")
    with pytest.raises(ImageError, match="3 frames of 12x12 pixels and its reference 4 frames of 12x12"):
        apart.score([noise()], reference=[noise(4)])
    for reference, count in ((None, "none"), ([], "0")):
        with pytest.raises(UsageError, match=f"one reference per video: got {count} for 1 videos"):
            apart.score([noise()], reference=reference)
        for name in ("rmse", "frame_change_rmse"):
            with pytest.raises(UsageError, match=f"one reference per video: got {count} for 1 videos"):
                metrics.score_videos(metrics.get(name), [noise()], reference=reference)
    with pytest.raises(UsageError, match="'loss' scores arrays of models that read, and got videos"):
        metrics.score_videos(metrics.get("loss"), [noise()])


@given(st.integers(1, 200), st.integers(2, 20))
def test_frames_are_evenly_spaced(count: int, at_most: int) -> None:
    chosen = spaced(count, at_most)
    assert chosen[0] == 0 and chosen[-1] == count - 1 and len(chosen) == min(count, at_most)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)
    assert spaced(count, None) == list(range(count))


class Counts:
    """A metric of images that remembers what it was given; the brightness of the top left pixel."""

    name, direction, needs = "counts", "none", frozenset({"prompt"})

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[str]]] = []

    def identity(self) -> dict[str, Any]:
        return {"metric": self.name}

    def notes(self, prompts: Any) -> list[str]:
        return [f"read {each.text}" for each in prompts]

    def score(self, images: Any, prompts: Any = None, reference: Any = None) -> Any:
        bright = [image.getpixel((0, 0))[0] for image in images]
        self.calls.append((bright, [each.text for each in prompts]))
        if 99 in bright:
            raise ImageError("it is 99")
        return np.array([np.nan if value == 98 else float(value) for value in bright])


def test_an_image_metric_is_given_frames_and_their_prompt() -> None:
    metric = Counts()
    long = np.stack([np.full((2, 2, 3), value, dtype=np.uint8) for value in range(61)])
    table = metrics.score_videos(metric, [long, long[:3]], [prompt("a"), prompt("b")])
    assert table["value"].tolist() == [30.0, 1.0] and table["status"].tolist() == ["ok", "ok"]
    assert table["note"].tolist() == ["read a", "read b"] and table["value"].dtype == np.float64
    assert metric.calls[0] == (list(range(0, 61, 4)), ["a"] * AT_MOST)
    assert metric.calls[1] == ([0, 1, 2], ["b"] * 3)
    metric.frames_at_most = None
    metrics.score_videos(metric, [long], [prompt("a")])
    assert len(metric.calls[-1][0]) == 61


@pytest.mark.parametrize(("value", "words"), [(99, "frame 1: it is 99"), (98, "frame 1: counts gave nan")])
def test_a_frame_that_cannot_be_scored_costs_its_video_only(value: int, words: str) -> None:
    good = np.full((3, 2, 2, 3), 5, dtype=np.uint8)
    bad = good.copy()
    bad[1] = value
    table = metrics.score_videos(Counts(), [bad, good, bad[0]], [prompt("a")] * 3)
    assert np.isnan(table["value"][0]) and table["status"][0].startswith(words)
    assert table["value"][1] == 5 and table["status"][1] == "ok"
    assert "expected a video" in table["status"][2]


def test_sizes_and_numbers_of_frames_must_agree() -> None:
    videos = [noise(), noise(3, 16), noise(4)]
    table = metrics.score_videos(metrics.get("rmse"), videos, reference=[noise(seed=1)] * 3)
    assert table["status"][0] == "ok" and table["value"].isna().tolist() == [False, True, True]
    assert "3 frames of 16x16 pixels and its reference 3 frames of 12x12" in table["status"][1]


def test_what_metrics_take_and_say() -> None:
    assert takes(metrics.get("rmse")) == (IMAGE, VIDEO)
    assert takes(metrics.get("frame_change")) == (VIDEO,)
    assert takes(metrics.get("loss")) == (ARRAYS,)
    assert video_identity(metrics.get("psnr"))["frames"] == "mean over every frame"
    said = "mean over at most 16 evenly spaced frames, both ends among them"
    assert video_identity(metrics.get("ms_ssim"))["frames"] == said
    assert video_identity(metrics.get("frame_change")) == metrics.get("frame_change").identity()


def test_learned_metrics_are_means_over_frames(tmp_path: Path) -> None:
    video, other = noise(20, 32), noise(20, 32, seed=1)
    chosen = spaced(20, AT_MOST)
    frames, others = ([Image.fromarray(each[index]) for index in chosen] for each in (video, other))
    clip = metrics.get("clip_t", checkpoint=tiny_clip(tmp_path / "clip"), batch=3)
    asked = [prompt("a red circle")]
    (row,) = metrics.score_videos(clip, [video], asked).itertuples(index=False)
    assert row.value == pytest.approx(clip.score(frames, asked * AT_MOST).mean(), abs=1e-6)
    lpips = metrics.get("lpips", checkpoint=random_lpips(tmp_path))
    (row,) = metrics.score_videos(lpips, [video], reference=[other]).itertuples(index=False)
    assert row.value == pytest.approx(lpips.score(frames, reference=others).mean(), abs=1e-6)
    assert row.value > 0 and row.status == "ok"
