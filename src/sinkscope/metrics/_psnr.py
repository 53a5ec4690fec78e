"""Peak signal-to-noise ratio to a reference image, in decibels.

`10 log10(255^2 / mse)` over pixels and RGB channels, float64; equal to scikit-image's
`peak_signal_noise_ratio` with `data_range=255`. Identical images have no finite ratio. They get the value of
the smallest difference 8-bit images of their size can have, one grey level in one channel of one pixel, so
that the order of images is kept and averages stay finite: `48.13 + 10 log10(3 * height * width)` dB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._image import pixels
from ._protocol import Direction, Prompt, check_inputs
from ._rmse import Rmse


class Psnr(Rmse):
    """Peak signal-to-noise ratio in dB; higher is closer to the reference."""

    name = "psnr"
    direction: Direction = "higher"

    def identity(self) -> dict[str, object]:
        """What decides the numbers."""
        return super().identity() | {
            "data_range": 255,
            "identical": "as one grey level in one channel of one pixel",
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Ratio of each image to its reference, float64 `[n]` in dB."""
        check_inputs(self, images, prompts, reference)
        pairs = zip(images, reference or (), strict=True)
        return np.array([_psnr(pixels(image), pixels(other)) for image, other in pairs], dtype=np.float64)


def _psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    squared = np.square(a.astype(np.float64) - b.astype(np.float64)).sum()
    return float(10 * np.log10(255.0**2 * a.size / max(squared, 1.0)))
