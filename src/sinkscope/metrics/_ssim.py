"""Structural similarity to a reference image: SSIM (Wang et al. 2004) and MS-SSIM (Wang, Simoncelli, Bovik
2003).

Gaussian window 11 wide, sigma 1.5, population moments, data range 255, float64, each RGB channel on its own
and then averaged, only where the whole window lies inside the image. SSIM equals scikit-image's
`structural_similarity` with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255`.

MS-SSIM halves the image (2x2 means) between scales. Its five scales need 11 pixels on the smallest, so 176 on
the first; smaller images get fewer scales (`scales_for`), whose weights are divided by their sum so that they
still add up to
one: 64x64 gets three (64, 32, 16). Values with different numbers of scales do not compare. A negative
contrast-structure term has no real fractional power and is set to 0, the usual convention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d

from sinkscope.errors import UsageError

from ._files import versions
from ._image import ImageError, pixels
from ._protocol import Direction, MetricInfo, Prompt, check_inputs

WINDOW, SIGMA, RANGE = 11, 1.5, 255.0
C1, C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, finest first (Wang, Simoncelli, Bovik 2003, section 3.2)."""

Floats = NDArray[np.float64]


def scales_for(side: int) -> int:
    """How many scales fit an image whose shorter side has `side` pixels: 5 from 176, 4 from 88, 3 from 44, 2
    from 22.

    Raises:
        ImageError: Not even one 11-pixel window fits.
    """
    if side < WINDOW:
        raise ImageError(f"Image is {side} pixels on its shorter side, expected at least {WINDOW} for SSIM.")
    return next(count for count in range(len(WEIGHTS), 0, -1) if side >> (count - 1) >= WINDOW)


class Ssim:
    """Mean SSIM to the reference; 1 for identical images."""

    name = "ssim"
    direction: Direction = "higher"
    needs = frozenset({"reference"})

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs nothing beyond the core."""
        return MetricInfo(cls.name, "ready")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {
            "metric": self.name,
            "backend": "sinkscope (scipy)",
            "checkpoint": None,
            "sha256": None,
            "dtype": "float64",
            "preprocess": "rgb-uint8, no resize",
            "window": "gaussian 11, sigma 1.5, population moments, valid region",
            "data_range": RANGE,
            "channels": "rgb separately, then averaged",
            "versions": versions("numpy", "scipy", "pillow"),
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Similarity of each image to its reference, float64 `[n]`."""
        check_inputs(self, images, prompts, reference)
        return _each(images, reference or (), self._pair)

    def _pair(self, a: Floats, b: Floats) -> float:
        scales_for(min(a.shape[:2]))
        luminance, structure = _maps(a, b)
        return float((luminance * structure).mean())


class MsSsim(Ssim):
    """Multi-scale SSIM to the reference; 1 for identical images.

    Args:
        scales: 1 to 5; None takes as many as the image has room for, see `scales_for`.
    """

    name = "ms_ssim"

    def __init__(self, *, scales: int | None = None) -> None:
        if scales is not None and scales not in range(1, len(WEIGHTS) + 1):
            raise UsageError(f"Got scales={scales}, expected 1 to {len(WEIGHTS)}, or None to fit the image.")
        self.scales = scales

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, with the scales used for each image size."""
        by_side = {f"{WINDOW << (n - 1)} pixels or more": n for n in range(len(WEIGHTS), 0, -1)}
        return super().identity() | {
            "scales": self.scales if self.scales is not None else by_side,
            "weights": list(WEIGHTS),
            "weights_rule": "first scales only, divided by their sum",
            "downsample": "2x2 mean, odd last row or column left out",
        }

    def _pair(self, a: Floats, b: Floats) -> float:
        side = min(a.shape[:2])
        count = self.scales if self.scales is not None else scales_for(side)
        if count > scales_for(side):
            raise ImageError(
                f"Image is {side} pixels on its shorter side, "
                f"expected {WINDOW << (count - 1)} for {count} scales."
            )
        weights = np.array(WEIGHTS[:count]) / sum(WEIGHTS[:count])
        product = np.ones(a.shape[-1])
        for scale, weight in enumerate(weights):
            luminance, structure = _maps(a, b)
            term = structure if scale < count - 1 else luminance * structure
            product *= np.maximum(term.mean(axis=(0, 1)), 0.0) ** weight
            a, b = _halve(a), _halve(b)
        return float(product.mean())


def _each(
    images: Sequence[Image.Image], reference: Sequence[Image.Image], pair: Callable[[Floats, Floats], float]
) -> Floats:
    pairs = zip(images, reference, strict=True)
    values = [pair(pixels(a).astype(np.float64), pixels(b).astype(np.float64)) for a, b in pairs]
    return np.array(values, dtype=np.float64)


def _maps(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Luminance and contrast-structure maps `[height - 10, width - 10, channel]`."""
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (var_a + var_b + C2)


def _blur(image: Floats) -> Floats:
    half = WINDOW // 2
    window = np.exp(-0.5 * (np.arange(-half, half + 1) / SIGMA) ** 2)
    window /= window.sum()
    out = correlate1d(correlate1d(image, window, axis=0), window, axis=1)
    return np.asarray(out[half:-half, half:-half])


def _halve(image: Floats) -> Floats:
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    even = image[:height, :width]
    return np.asarray((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4)
