"""Videos through metrics: those of images frame by frame, those with "video" among their `needs` as a whole.

A video is uint8 `[frame, height, width, 3]`. An image metric scores frames and the video gets their mean;
with a reference, frame i is compared with frame i of the reference. At most 16 frames are scored, evenly
spaced with the first and the last among them, unless the metric says otherwise by an attribute
`frames_at_most` (None: every frame). The frames of one video are no independent measurements: they only make
its one score steadier, and statistics go over videos as they do over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from sinkscope.errors import UsageError

from ._image import ImageError
from ._protocol import Metric, Prompt
from ._rows import OK, score_rows

Video: TypeAlias = NDArray[np.uint8]
VIDEO = "video"
AT_MOST = 16
"""Frames of a video that an image metric scores, unless it says otherwise."""


def frames_of(metric: Metric) -> int | None:
    """How many frames of a video an image metric scores at most; None for all of them."""
    at_most: int | None = getattr(metric, "frames_at_most", AT_MOST)
    return at_most


def spaced(count: int, at_most: int | None) -> list[int]:
    """Evenly spaced frame numbers, the first and the last among them; all of them where there are no more.

    Example:
        >>> spaced(9, 3), spaced(2, 3), spaced(3, None)
        ([0, 4, 8], [0, 1], [0, 1, 2])
    """
    if at_most is None or count <= at_most:
        return list(range(count))
    return [int(place) for place in np.round(np.linspace(0, count - 1, at_most))]


def video_identity(metric: Metric) -> dict[str, Any]:
    """What decides a metric's scores of videos: its identity, and for image metrics which frames count."""
    found = dict(metric.identity())
    if VIDEO in metric.needs:
        return found
    at_most = frames_of(metric)
    which = (
        "every frame" if at_most is None else f"at most {at_most} evenly spaced frames, both ends among them"
    )
    return {**found, "frames": f"mean over {which}"}


def check_video(video: Any) -> Video:
    """Raise `ImageError` unless this is a video."""
    found = np.asarray(video)
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[-1] != 3 or not found.size:
        raise ImageError(
            f"Got {found.dtype} {found.shape}, expected a video: uint8 [frame, height, width, 3]."
        )
    return found


def check_same_video(video: Video, reference: Video) -> None:
    """Raise `ImageError` unless both have the same number of frames and the same size in pixels."""
    if video.shape != reference.shape:
        sides = [
            f"{shape[0]} frames of {shape[2]}x{shape[1]} pixels" for shape in (video.shape, reference.shape)
        ]
        raise ImageError(
            f"Video has {sides[0]} and its reference {sides[1]}, expected the same. Generate both with the "
            "same settings."
        )


def score_videos(
    metric: Metric,
    videos: Sequence[Video],
    prompts: Sequence[Prompt] | None = None,
    reference: Sequence[Video] | None = None,
) -> pd.DataFrame:
    """Score videos; one that cannot be scored becomes a NaN row that says why, the others keep their scores.

    Args:
        metric: From `metrics.get`: of images, or of videos.
        videos: uint8 `[frame, height, width, 3]` each.
        prompts: One per video where the metric needs them.
        reference: One video per video where the metric needs them.

    Returns:
        Columns `value` (float64, NaN unless scored), `status` ("ok" or the reason) and `note`, in the order
        of `videos`.

    Raises:
        UsageError: Prompts or references are missing as a whole or differ in number, or the metric scores
            arrays.
        MissingWeightsError: The metric's weights are absent; then nothing can be scored.
    """
    if "arrays" in metric.needs:
        raise UsageError(f"Metric {metric.name!r} scores arrays of models that read, and got videos.")
    for what, given in (("prompt", prompts), ("reference", reference)):
        if what in metric.needs and (given is None or len(given) != len(videos)):
            count = "none" if given is None else str(len(given))
            raise UsageError(
                f"Metric {metric.name!r} needs one {what} per video: got {count} for {len(videos)} videos."
            )
    rows = []
    for index, video in enumerate(videos):
        prompt = None if prompts is None else prompts[index]
        other = None if reference is None or "reference" not in metric.needs else reference[index]
        try:
            rows.append(_row(metric, video, prompt, other))
        except ImageError as error:
            rows.append((np.nan, str(error), ""))
    table = pd.DataFrame(rows, columns=["value", "status", "note"])
    return table.astype({"value": "float64"})


def _row(metric: Metric, video: Any, prompt: Prompt | None, reference: Any | None) -> tuple[float, str, str]:
    """Value, status and note of one video."""
    mine = check_video(video)
    other = None if reference is None else check_video(reference)
    if other is not None:
        check_same_video(mine, other)
    if VIDEO in metric.needs:
        return _whole(metric, mine, prompt, other)
    chosen = spaced(len(mine), frames_of(metric))
    table = score_rows(
        metric,
        [Image.fromarray(mine[index]) for index in chosen],
        None if prompt is None else [prompt] * len(chosen),
        None if other is None else [Image.fromarray(other[index]) for index in chosen],
    )
    note = str(table["note"].iloc[0])
    for index, status in zip(chosen, table["status"], strict=True):
        if status != OK:
            return np.nan, f"frame {index}: {status}", note
    return float(table["value"].mean()), OK, note


def _whole(
    metric: Metric, video: Video, prompt: Prompt | None, reference: Video | None
) -> tuple[float, str, str]:
    others: Any = None if reference is None else [reference]
    videos: Any = [video]
    (value,) = metric.score(videos, None if prompt is None else [prompt], others)
    if not np.isfinite(value):
        return np.nan, f"{metric.name} gave {value}, expected a finite number", ""
    return float(value), OK, ""
