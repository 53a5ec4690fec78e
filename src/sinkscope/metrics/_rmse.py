"""Root mean square difference of pixels to a reference image, on the scale 0 (same) to 1 (black against
white).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._files import formula_identity
from ._image import pixels
from ._protocol import Direction, MetricInfo, Prompt, check_inputs


class Rmse:
    """`sqrt(mean((image - reference)^2)) / 255` over pixels and RGB channels, float64."""

    name = "rmse"
    direction: Direction = "lower"
    needs = frozenset({"reference"})
    frames_at_most: int | None = None
    """Of a video every frame is compared."""

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs nothing beyond the core."""
        return MetricInfo(cls.name, "ready")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        return formula_identity(self.name, "rgb-uint8, no resize", "numpy", "pillow")

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Distance of each image to its reference, float64 `[n]` in [0, 1]."""
        check_inputs(self, images, prompts, reference)
        pairs = zip(images, reference or (), strict=True)
        return np.array([_rmse(pixels(image), pixels(other)) for image, other in pairs], dtype=np.float64)


def _rmse(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))) / 255)
