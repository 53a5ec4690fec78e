"""Images and sizes that OpenCV's and our bilinear resizing are compared on; both as (width, height)."""

from __future__ import annotations

import numpy as np

CASES = {
    "up, 64 to the detector's size": ((64, 64), (800, 800)),
    "up, 512": ((512, 512), (800, 800)),
    "down, 1024": ((1024, 1024), (800, 800)),
    "half": ((160, 120), (80, 60)),
    "half of one side": ((160, 120), (80, 120)),
    "double": ((40, 30), (80, 60)),
    "odd": ((91, 37), (57, 128)),
    "long": ((501, 33), (1333, 88)),
    "one row": ((5, 1), (9, 4)),
    "to a pixel": ((7, 5), (1, 1)),
}


def noise(width: int, height: int) -> np.ndarray:
    return np.random.RandomState(width * 10007 + height).randint(0, 256, (height, width, 3)).astype(np.uint8)
