"""What a unit gives: an image, a video, or arrays by name where the model reads instead of painting.

A pipeline that can be told how many frames to make returns `frames`, one video per unit. One whose class has
`output_kind = "arrays"` returns `arrays`, one mapping from names to NumPy arrays per unit. Others return
`images`. Everything else of a study is the same: noise, batches, arms, the run folder, scores and verdicts.
Images are kept as PNG, videos as animated PNG, arrays as safetensors; all are lossless, and equal outputs
give equal bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sinkscope.errors import NonFiniteError, StoreError, UsageError
from sinkscope.study import _files, _video
from sinkscope.study._plan import Unit
from sinkscope.study._video import Frames

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Output: TypeAlias = Image.Image | Frames | Arrays
IMAGE, VIDEO, ARRAYS = "image", "video", "arrays"
SUFFIX = {IMAGE: ".png", VIDEO: ".apng", ARRAYS: ".safetensors"}
"""File name ending of each kind of output."""
WORDS = {IMAGE: "images", VIDEO: "videos", ARRAYS: "arrays of a model that reads"}
METHOD = {IMAGE: "images", VIDEO: "videos", ARRAYS: "arrays"}
"""Method of a run that gives each kind."""
FRAMES = ("num_frames", "video_length", "frames")
"""What pipelines call the number of frames of a video."""


def kind_of(pipe: Any) -> str:
    """ "image", "video" for a pipeline that takes a number of frames, or "arrays" for one that reads.

    Raises:
        UsageError: The pipeline declares something else.
    """
    usual = VIDEO if frames_argument(pipe) is not None else IMAGE
    kind = getattr(type(pipe), "output_kind", usual)
    if kind not in SUFFIX:
        raise UsageError(
            f"{type(pipe).__name__} has output_kind={kind!r}: expected {' or '.join(map(repr, SUFFIX))}."
        )
    return str(kind)


def frames_argument(pipe: Any) -> str | None:
    """What a pipeline calls the number of frames; None where it makes no videos."""
    accepted = inspect.signature(type(pipe).__call__).parameters
    return next((name for name in FRAMES if name in accepted), None)


def takes(metric: Any) -> tuple[str, ...]:
    """Which kinds of output a metric scores: one of images also scores videos, frame by frame."""
    if ARRAYS in metric.needs:
        return (ARRAYS,)
    return (VIDEO,) if VIDEO in metric.needs else (IMAGE, VIDEO)


def check_metric(metric: Any, kind: str) -> None:
    """Refuse a metric of another kind.

    Raises:
        UsageError: Naming what it scores and the metrics that would fit.
    """
    if kind in takes(metric):
        return
    fitting = {
        IMAGE: "scene, rmse or ssim",
        VIDEO: "rmse, ssim or frame_change",
        ARRAYS: "loss, perplexity, accuracy, top1 or feature_cosine",
    }
    raise UsageError(
        f"Metric {metric.name!r} scores {WORDS[takes(metric)[0]]}, but the units of this model are "
        f"{WORDS[kind]}. Use metrics such as {fitting[kind]}."
    )


def check_distance(name: str, kind: str) -> None:
    """Refuse a distance between sets of images for other units.

    Raises:
        UsageError: Saying what to use instead.
    """
    if kind == IMAGE:
        return
    why = {
        VIDEO: "The frames of one video are not independent of each other, so pooled they are no such set. "
        "Use metrics that compare video by video, such as dino, lpips or rmse.",
        ARRAYS: "Use metrics such as feature_cosine.",
    }
    raise UsageError(
        f"Distance {name!r} compares sets of independent images, but the units of this model are "
        f"{WORDS[kind]}. {why[kind]}"
    )


def check_metrics(names: Sequence[str], options: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    """Refuse metrics that score another kind of output than a model gives, before anything is generated.

    Raises:
        UsageError: Naming the metric.
    """
    from sinkscope import metrics

    for name in names:
        check_metric(metrics.get(name, **options.get(name, {})), kind)


def arrays_of(pipe: Any, result: Any, units: Sequence[Unit]) -> list[Arrays]:
    """The arrays of one batch, checked.

    Raises:
        NonFiniteError: A unit's numbers hold NaN or infinity.
        UsageError: The pipeline returned something other than one mapping of arrays per unit.
    """
    found = getattr(result, "arrays", None)
    whole = isinstance(found, Sequence) and len(found) == len(units)
    if found is None or not whole or not all(isinstance(entry, Mapping) and entry for entry in found):
        raise UsageError(
            f"{type(pipe).__name__} returned {type(result).__name__} without one mapping of arrays per unit."
        )
    for unit, entry in zip(units, found, strict=True):
        for name, value in entry.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise NonFiniteError(
                    f"The array {name!r} of unit {unit.id!r} holds NaN or infinity, so nothing of this batch "
                    "was kept. Load the model in float32, or weaken the edit."
                )
    return list(found)


def videos_of(pipe: Any, result: Any, units: Sequence[Unit], frames: int | None) -> list[Frames]:
    """The videos of one batch, checked.

    Args:
        pipe: The pipeline.
        result: What it returned.
        units: The units of the batch.
        frames: How many frames were asked for; None where that was left to the pipeline.

    Raises:
        NonFiniteError: A frame holds NaN or infinity.
        UsageError: The pipeline returned something other than one video per unit, or another number of
            frames.
    """
    name = type(pipe).__name__
    found = getattr(result, "frames", None)
    if found is None or len(found) != len(units):
        raise UsageError(
            f"{name} returned {type(result).__name__} without one video per prompt (in frames) for "
            f"{len(units)} prompts at once. Where it makes one video at a time, use batch=1."
        )
    videos = []
    for unit, video in zip(units, found, strict=True):
        pixels = np.asarray(video)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or not len(pixels):
            raise UsageError(
                f"{name} returned a video of shape {pixels.shape} for unit {unit.id!r}: expected [frame, "
                "height, width, 3]."
            )
        if frames is not None and len(pixels) != frames:
            raise UsageError(
                f"{name} made {len(pixels)} frames where frames={frames} was asked for. Use "
                f"frames={len(pixels)}, or another number that the model was made for."
            )
        if not np.isfinite(pixels).all():
            raise NonFiniteError(
                f"The video of unit {unit.id!r} holds NaN or infinity, so nothing of this batch was kept. "
                "Half precision may overflow here: load the pipeline in float32 or bfloat16, or weaken the "
                "edit."
            )
        videos.append(_bytes_of(pixels, name))
    return videos


def _bytes_of(pixels: NDArray[Any], name: str) -> Frames:
    """Frames as 8-bit numbers; those of a pipeline go from 0 to 1, or are 8-bit numbers already."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if low < -0.001 or high > 1.001:
        raise UsageError(
            f"{name} returned frames with numbers from {low:.3g} to {high:.3g}: expected 0 to 1 for "
            "output_type='np'."
        )
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)


def to_bytes(output: Output) -> bytes:
    """An output as the bytes of its file."""
    if isinstance(output, Image.Image):
        return _files.image_bytes(output)
    if isinstance(output, np.ndarray):
        return _video.to_bytes(output)
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(output[name]) for name in sorted(output)}))


def read(path: Path) -> Output:
    """Read a unit's output back.

    Raises:
        StoreError: The file is missing or damaged.
    """
    if path.suffix == SUFFIX[VIDEO]:
        return _video.read(path)
    if path.suffix != SUFFIX[ARRAYS]:
        return _files.read_image(path)
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = _files.read_bytes(path)
    try:
        return dict(load(data))
    except (SafetensorError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged ({len(data)} bytes: {error}). Run the same study into this folder again: "
            "only the damaged files are made anew."
        ) from error
