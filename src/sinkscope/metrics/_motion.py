"""Metrics of what moves in a video, without learned weights.

`frame_change` is the mean absolute difference of neighbouring frames. On videos of scenes that stand still it
is flicker: VBench's "temporal flickering" (Huang et al. 2024) is 1 minus it. Where something is meant to move
it also grows with motion, so that neither direction is better; a model that freezes has 0.

`frame_change_rmse` compares how two videos change: the root mean square difference of their frame-to-frame
differences. A picture that is another one but moves alike is close; RMSE would call it far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sinkscope.errors import UsageError

from ._files import formula_identity
from ._image import ImageError
from ._protocol import Direction, MetricInfo, Prompt
from ._videos import Video, check_same_video, check_video


class FrameChange:
    """`mean(|frame[t + 1] - frame[t]|) / 255` over frames, pixels and RGB channels, float64 in [0, 1]."""

    name: ClassVar[str] = "frame_change"
    direction: Direction = "none"
    needs: frozenset[str] = frozenset({"video"})

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs nothing beyond the core."""
        return MetricInfo(cls.name, "ready")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        return formula_identity(self.name, "rgb-uint8, no resize, every frame", "numpy")

    def score(
        self,
        images: Sequence[Any],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Any] | None = None,
    ) -> NDArray[np.float64]:
        """Score each video, float64 `[n]`.

        Args:
            images: Videos, uint8 `[frame, height, width, 3]` each.
            prompts: Not read.
            reference: One video per video, where the metric compares.

        Raises:
            ImageError: A video has one frame only, is no video, or is not like its reference.
            UsageError: References are needed and absent, or their number differs.
        """
        others: Sequence[Any] = [None] * len(images)
        if "reference" in self.needs:
            if reference is None or len(reference) != len(images):
                count = "none" if reference is None else str(len(reference))
                raise UsageError(
                    f"Metric {self.name!r} needs one reference per video: got {count} for {len(images)} "
                    "videos."
                )
            others = reference
        pairs = zip(images, others, strict=True)
        return np.array([self._one(self._moving(video), other) for video, other in pairs], dtype=np.float64)

    def _one(self, video: Video, other: Any) -> float:
        """The score of one video. Frame pair by frame pair: whole videos would not fit as float64."""
        steps = [np.abs(_step(video, index)).mean() for index in range(len(video) - 1)]
        return float(np.mean(steps)) / 255

    def _moving(self, video: Any) -> Video:
        found = check_video(video)
        if len(found) < 2:
            raise ImageError(f"{self.name}: the video has 1 frame, expected 2 or more. Generate more frames.")
        return found


class FrameChangeRmse(FrameChange):
    """Distance of motion to the reference video, float64 in [0, 2].

    `sqrt(mean(((frame[t + 1] - frame[t]) - (reference[t + 1] - reference[t]))^2)) / 255` over frames, pixels
    and RGB channels; 0 where both change alike.
    """

    name = "frame_change_rmse"
    direction: Direction = "lower"
    needs = frozenset({"video", "reference"})

    def _one(self, video: Video, other: Any) -> float:
        theirs = self._moving(other)
        check_same_video(video, theirs)
        steps = [
            np.square(_step(video, index) - _step(theirs, index)).mean() for index in range(len(video) - 1)
        ]
        return float(np.sqrt(np.mean(steps))) / 255


def _step(video: Video, index: int) -> NDArray[np.float64]:
    """What changes from one frame to the next."""
    return video[index + 1].astype(np.float64) - video[index].astype(np.float64)
