"""The scene painter: flat coloured shapes on grey, anti-aliased from signed distances.

A scene is a few objects, each a shape, a colour, a centre and a radius in pixels. Painting is exact and
vectorised over scenes; the same distances give the templates with which `reader` recognises shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "orange": (245, 138, 28),
    "yellow": (250, 222, 48),
    "green": (36, 158, 66),
    "blue": (36, 86, 222),
    "purple": (128, 52, 178),
    "pink": (250, 148, 202),
    "brown": (120, 72, 36),
    "black": (16, 16, 16),
    "white": (252, 252, 252),
}
COLORS = tuple(PALETTE)
BACKGROUND = (160, 160, 160)
SIZE = 64
MAX_OBJECTS = 4

FloatArray = NDArray[np.float32]
_PALETTE_RGB = np.array([PALETTE[name] for name in COLORS], dtype=np.float32)


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes.

    Attributes:
        shape: Index into `SHAPES`, -1 for an empty slot, int [scene, 4].
        color: Index into `COLORS`, int [scene, 4].
        center: Object centres (x, y) in pixels, float32 [scene, 4, 2].
        radius: Object radii in pixels, float32 [scene, 4].
    """

    shape: NDArray[np.int64]
    color: NDArray[np.int64]
    center: FloatArray
    radius: FloatArray

    def __len__(self) -> int:
        return len(self.shape)


def distance(shape: str, x: FloatArray, y: FloatArray) -> FloatArray:
    """Signed distance (negative inside) to a shape of radius 1 at the origin; y grows downwards.

    Distances are exact near edges and at least of the right sign elsewhere, which is all that painting needs.
    """
    return _DISTANCES[shape](x, y)


def _circle(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.hypot(x, y) - np.float32(0.95)


def _square(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.82)


def _diamond(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.float32(np.sqrt(0.5)) * (np.abs(x) + np.abs(y) - np.float32(1.12))


def _triangle(x: FloatArray, y: FloatArray) -> FloatArray:
    slant = np.float32(np.sqrt(0.75)) * np.abs(x) - np.float32(0.5) * (y + np.float32(1.0))
    return np.maximum(y - np.float32(0.72), slant)


def _cross(x: FloatArray, y: FloatArray) -> FloatArray:
    ax, ay = np.abs(x), np.abs(y)
    upright = np.maximum(ax - np.float32(0.32), ay - np.float32(0.98))
    lying = np.maximum(ax - np.float32(0.98), ay - np.float32(0.32))
    return np.minimum(upright, lying)


def _ring(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.abs(np.hypot(x, y) - np.float32(0.74)) - np.float32(0.24)


def _heart(x: FloatArray, y: FloatArray) -> FloatArray:
    ax = np.abs(x)
    lobe = np.hypot(ax - np.float32(0.46), y + np.float32(0.32)) - np.float32(0.52)
    # The tangent cone from the lobes down to the tip at y = 0.98.
    cone = np.float32(0.7547) * (ax - np.float32(0.955)) + np.float32(0.6561) * (y + np.float32(0.105))
    body = np.maximum(np.maximum(cone, -(y + np.float32(0.32))), ax - np.float32(0.98))
    return np.minimum(lobe, body)


def _star(x: FloatArray, y: FloatArray) -> FloatArray:
    angle = np.arctan2(x, -y)
    sector = np.float32(2 * np.pi / 5)
    folded = np.abs((angle + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    px, py = radius * np.sin(folded), radius * np.cos(folded)
    # Edge from the outer tip (0, 1.08) to the inner corner at half a sector, radius 0.46.
    inner = (np.float32(0.46 * np.sin(np.pi / 5)), np.float32(0.46 * np.cos(np.pi / 5)))
    ex, ey = inner[0], inner[1] - np.float32(1.08)
    norm = np.float32(np.hypot(ex, ey))
    return ((py - np.float32(1.08)) * ex - px * ey) / norm


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
}


def coverage(shape: str, center: FloatArray, radius: FloatArray, size: int = SIZE) -> FloatArray:
    """Covered share of every pixel: centres [object, 2], radii [object] -> [object, size, size]."""
    axis = np.arange(size, dtype=np.float32) + np.float32(0.5)
    r = radius.astype(np.float32)[:, None, None]
    x = (axis[None, None, :] - center[:, 0, None, None]) / r
    y = (axis[None, :, None] - center[:, 1, None, None]) / r
    x, y = np.broadcast_arrays(x, y)
    return np.clip(np.float32(0.5) - distance(shape, x, y) * r, 0.0, 1.0).astype(np.float32)


def layers(scenes: Scenes, size: int = SIZE) -> FloatArray:
    """Coverage of every object slot, float32 [scene, slot, size, size]; zeros for empty slots."""
    out = np.zeros((*scenes.shape.shape, size, size), dtype=np.float32)
    for index, name in enumerate(SHAPES):
        where = np.nonzero(scenes.shape == index)
        if len(where[0]):
            out[where] = coverage(name, scenes.center[where], scenes.radius[where], size)
    return out


def paint(scenes: Scenes, size: int = SIZE, jitter: NDArray[np.float32] | None = None) -> NDArray[np.uint8]:
    """Paint scenes as RGB images, uint8 [scene, size, size, 3].

    Args:
        scenes: What to paint; later slots lie on top.
        size: Width and height in pixels.
        jitter: Optional change of colour per object, float32 [scene, slot, 3] in grey levels.
    """
    alpha = layers(scenes, size)
    image = np.empty((len(scenes), size, size, 3), dtype=np.float32)
    image[:] = BACKGROUND
    for slot in range(alpha.shape[1]):
        color = _PALETTE_RGB[np.maximum(scenes.color[:, slot], 0)]
        if jitter is not None:
            color = np.clip(color + jitter[:, slot], 0, 255)
        a = alpha[:, slot, :, :, None]
        image = image * (1 - a) + color[:, None, None, :] * a
    return np.rint(image).astype(np.uint8)
