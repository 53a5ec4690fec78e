"""Bilinear resizing of 8-bit images as OpenCV does it (`cv2.resize`, INTER_LINEAR), to the last bit.

The detector was published with images resized this way, and its scores near a threshold depend on it: of 300
detections, a floating-point bilinear resize reproduced 262. OpenCV works in fixed point: weights are rounded
to 1/2048, rows are blended first, and the lowest four bits of a blended row are dropped before columns are.
Equal to OpenCV 4.14 and 5.0 on x86-64 in every pixel of the stored cases in `tests/metrics/cv2_cases.json`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SCALE = np.float32(2048)


class _Taps(NamedTuple):
    """For each output position two input positions and their weights in 1/2048."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight_first: NDArray[np.int32]
    weight_second: NDArray[np.int32]


def resize_linear(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize `[h, w, channel]` bytes to `[height, width, channel]`."""
    rows, columns = image.shape[:2]
    if (columns, rows) == (width, height):
        return image.copy()
    wide = image.astype(np.int32)
    if (columns, rows) == (2 * width, 2 * height):
        # OpenCV takes the mean of four pixels when both sides are halved exactly.
        blocks = wide[::2, ::2] + wide[1::2, ::2] + wide[::2, 1::2] + wide[1::2, 1::2]
        return ((blocks + 2) >> 2).astype(np.uint8)
    x, y = _taps(columns, width, inside=True), _taps(rows, height, inside=False)
    blended = wide[:, x.first] * x.weight_first[None, :, None]
    blended += wide[:, x.second] * x.weight_second[None, :, None]
    blended >>= 4
    top = (blended[y.first] * y.weight_first[:, None, None]) >> 16
    bottom = (blended[y.second] * y.weight_second[:, None, None]) >> 16
    return np.clip((top + bottom + 2) >> 2, 0, 255).astype(np.uint8)


def _taps(source: int, target: int, *, inside: bool) -> _Taps:
    """Positions and weights along one axis; with `inside` positions beyond an edge take the edge alone.

    OpenCV does that for columns only. For rows it blends the edge row with itself, which drops a bit more.
    """
    # In this order: OpenCV inverts the ratio target / source, which rounds otherwise than source / target.
    step = 1.0 / (target / source)
    place = ((np.arange(target) + 0.5) * step - 0.5).astype(np.float32)
    index = np.floor(place).astype(np.int64)
    part = place - index.astype(np.float32)
    if inside:
        beyond = (index < 0) | (index >= source - 1)
        part[beyond] = 0
        index = index.clip(0, source - 1)
    weights = [np.rint(share * _SCALE).astype(np.int32) for share in (np.float32(1) - part, part)]
    last = source - 1
    return _Taps(index.clip(0, last), (index + 1).clip(0, last), weights[0], weights[1])
