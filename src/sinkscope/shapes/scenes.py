"""Scenes for captions: where the objects lie and what the caption leaves open (colours, sizes, places)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sinkscope.shapes.grammar import TASKS, Caption, pair_held_out, sample
from sinkscope.shapes.painter import COLORS, MAX_OBJECTS, SHAPES, SIZE, Scenes

_RADIUS = {1: (13.0, 19.0), 2: (10.0, 13.5), 3: (8.5, 10.0), 4: (8.0, 9.2)}
_REACH = 1.1  # the star's tips lie 1.08 radii from its centre
_GAP = 4.0  # pixels between two objects, enough that a blurred edge does not join them


def compose(captions: Sequence[Caption], rng: np.random.Generator) -> Scenes:
    """Lay out one scene per caption.

    Colours that a caption leaves open are drawn among those that are not held out for the shape, so a
    held-out pair never appears by accident. Objects of a counting caption share one colour.
    """
    n = len(captions)
    shape = np.full((n, MAX_OBJECTS), -1, dtype=np.int64)
    color = np.zeros((n, MAX_OBJECTS), dtype=np.int64)
    center = np.zeros((n, MAX_OBJECTS, 2), dtype=np.float32)
    radius = np.ones((n, MAX_OBJECTS), dtype=np.float32)
    for i, caption in enumerate(captions):
        names = [name for name, _ in caption.objects] * caption.count
        count = len(names)
        shape[i, :count] = [SHAPES.index(name) for name in names]
        color[i, :count] = _colors(caption, count, rng)
        radius[i, :count], center[i, :count] = _layout(caption, count, rng)
    return Scenes(shape, color, center, radius)


def draw(n: int, rng: np.random.Generator, tasks: Sequence[str] = TASKS) -> tuple[list[Caption], Scenes]:
    """Draw n training captions, tasks in equal shares, and a scene for each."""
    captions = [sample(rng, tasks[i % len(tasks)]) for i in range(n)]
    return captions, compose(captions, rng)


def _colors(caption: Caption, count: int, rng: np.random.Generator) -> list[int]:
    chosen = []
    for name, color in caption.objects:
        free = [c for c in COLORS if not pair_held_out(name, c)]
        chosen.append(COLORS.index(color or free[int(rng.integers(len(free)))]))
    return chosen * count if caption.task == "counting" else chosen


def _layout(caption: Caption, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    low, high = _RADIUS[count]
    while True:
        radius = rng.uniform(low, high, size=count)
        for _ in range(20):
            margin = _REACH * radius + 1.0
            center = rng.uniform(margin[:, None], SIZE - margin[:, None], size=(count, 2))
            if _apart(center, radius) and _related(caption.relation, center):
                return radius.astype(np.float32), center.astype(np.float32)


def _apart(center: np.ndarray, radius: np.ndarray) -> bool:
    for i in range(len(radius)):
        for j in range(i):
            away = math.hypot(center[i, 0] - center[j, 0], center[i, 1] - center[j, 1])
            if away < radius[i] + radius[j] + _GAP:
                return False
    return True


def _related(relation: str | None, center: np.ndarray) -> bool:
    """Stricter than the rule that judges (direction > 0.5): every training picture is a clear case."""
    if relation is None:
        return True
    dx, dy = center[0] - center[1]
    along = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]
    across = abs(dy) if relation in ("left of", "right of") else abs(dx)
    return bool(along > 1.6 * across)
