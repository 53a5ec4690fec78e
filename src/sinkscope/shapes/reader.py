"""The exact scene reader: what shapes, of which colour, lie where in an image, by geometry alone.

Foreground is what differs from the background grey; connected parts are objects; an object's colour is the
palette colour nearest to its median in CIELAB; its shape is the template (painted from the same signed
distances as the scenes) that overlaps it best after fitting place and size. Nothing is learned, so the reader
cannot share a bias with the model it judges. `judge` applies GenEval's rules (`evaluate_images.py`: clauses,
counting, colours, the position rule).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab
from skimage.measure import label, regionprops

from sinkscope.shapes.painter import BACKGROUND, COLORS, PALETTE, SHAPES, SIZE, coverage

MIN_AREA = 20.0  # pixels at 64 x 64; anything smaller is a speck
MIN_OVERLAP = 0.72  # intersection over union below which a part is no shape of ours
_FOREGROUND = 14.0  # CIELAB distance from the background at which a pixel counts as object
_POSITION_SLACK = 0.1
Float = NDArray[np.float32]


@dataclass(frozen=True)
class SceneObject:
    """One object read from an image.

    Attributes:
        shape: A name from `SHAPES`, or "unknown" when no template overlaps well.
        color: A name from `COLORS`.
        center: (x, y) in pixels of the 64 x 64 image.
        box: (left, top, right, bottom) in pixels.
        area: Covered pixels.
        overlap: Intersection over union with the best template.
    """

    shape: str
    color: str
    center: tuple[float, float]
    box: tuple[float, float, float, float]
    area: float
    overlap: float


@dataclass(frozen=True)
class Scene:
    """What is in an image: objects in falling order of area."""

    objects: tuple[SceneObject, ...]

    def describe(self) -> str:
        """Return a short text such as "red circle, blue star"."""
        return ", ".join(f"{item.color} {item.shape}" for item in self.objects) or "nothing"


class Judgement(NamedTuple):
    """Whether an image shows what was asked, and if not, why."""

    correct: bool
    reason: str


def read(image: Image.Image) -> Scene:
    """Read the objects of an image; images of another size are resized to 64 x 64 first."""
    rgb = image.convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(rgb, dtype=np.float32)
    lab = rgb2lab(pixels / 255.0).astype(np.float32)
    far = np.linalg.norm(lab - _to_lab(_background(pixels)), axis=-1)
    parts = label(far > _FOREGROUND, connectivity=2)
    objects = [_read_part(part, parts, pixels, lab) for part in regionprops(parts) if part.area >= MIN_AREA]
    return Scene(tuple(sorted(objects, key=lambda item: -item.area)))


def judge(image: Image.Image, metadata: Mapping[str, Any]) -> Judgement:
    """Judge an image by GenEval metadata (`include`, `exclude`)."""
    return judge_scene(read(image), metadata)


def judge_scene(scene: Scene, metadata: Mapping[str, Any]) -> Judgement:
    """Judge what was read: every include clause must hold, no exclude clause may.

    As in GenEval, a clause takes the `count` most prominent objects of its class (here: the largest), all of
    which must have the colour and the position asked for, and surplus objects only matter for counting.
    """
    matched: list[list[SceneObject] | None] = []
    reasons: list[str] = []
    for clause in metadata["include"]:
        found = [item for item in scene.objects if item.shape == clause["class"]][: clause["count"]]
        reason = _clause_fault(found, clause, matched)
        matched.append(None if reason else found)
        if reason:
            reasons.append(reason)
    for clause in metadata.get("exclude", ()):
        n = sum(item.shape == clause["class"] for item in scene.objects)
        if n >= clause["count"]:
            reasons.append(f"expected fewer than {clause['count']} {clause['class']}, found {n}")
    return Judgement(not reasons, "; ".join(reasons) or "correct")


def relations(a: SceneObject, b: SceneObject) -> set[str]:
    """Return where a lies seen from b, by GenEval's rule (protocol of `relative_position`, threshold 0.1)."""
    offset = np.array(a.center) - np.array(b.center)
    size = np.array([_extent(a, 0) + _extent(b, 0), _extent(a, 1) + _extent(b, 1)])
    reduced = np.maximum(np.abs(offset) - _POSITION_SLACK * size, 0) * np.sign(offset)
    if np.all(np.abs(reduced) < 1e-3):
        return set()
    dx, dy = reduced / np.linalg.norm(offset)
    held = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in held.items() if holds}


def _clause_fault(
    found: list[SceneObject], clause: Mapping[str, Any], matched: list[list[SceneObject] | None]
) -> str:
    name, count = clause["class"], clause["count"]
    if len(found) < count:
        return f"expected {count} {name}, found {len(found)}"
    if "color" in clause:
        right = sum(item.color == clause["color"] for item in found)
        if right < count:
            return f"expected {count} {clause['color']} {name}, found {found[0].color}"
    if "position" in clause:
        relation, target = clause["position"]
        others = matched[target]
        if others is None:
            return f"no target for {name} to be {relation}"
        if not all(relation in relations(item, other) for item in found for other in others):
            return f"{name} is not {relation} its target"
    return ""


def _extent(item: SceneObject, axis: int) -> float:
    return item.box[axis + 2] - item.box[axis]


def _background(pixels: Float) -> Float:
    """Median of the outermost pixels, so that a model's slightly different grey is still background."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    near = edge[np.abs(edge - np.array(BACKGROUND, dtype=np.float32)).max(axis=1) < 40]
    return np.median(near, axis=0) if len(near) else np.array(BACKGROUND, dtype=np.float32)


def _to_lab(rgb: Float) -> Float:
    return rgb2lab(rgb.reshape(1, 1, 3) / 255.0).reshape(-1, 3).astype(np.float32)


_PALETTE_LAB = np.concatenate([_to_lab(np.array(PALETTE[name], dtype=np.float32)) for name in COLORS])


def _read_part(part: Any, parts: NDArray[np.int64], pixels: Float, lab: Float) -> SceneObject:
    mine = parts == part.label
    inside = _inside(mine)
    median = np.median(lab[inside], axis=0)
    color = COLORS[int(np.linalg.norm(_PALETTE_LAB - median, axis=1).argmin())]
    alpha = _alpha(pixels, mine, np.median(pixels[inside], axis=0))
    area = float(alpha.sum())
    top, left, bottom, right = part.bbox
    shape, overlap = _fit(alpha, (float(left), float(top), float(right), float(bottom)))
    axis = np.arange(SIZE, dtype=np.float32) + 0.5
    center = (float((alpha.sum(0) * axis).sum() / area), float((alpha.sum(1) * axis).sum() / area))
    box = (float(left), float(top), float(right), float(bottom))
    return SceneObject(shape if overlap >= MIN_OVERLAP else "unknown", color, center, box, area, overlap)


def _inside(mine: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels with all four neighbours in the part, whose colour no edge dilutes; all if these are few."""
    core = mine.copy()
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        core &= np.roll(mine, shift, axis=axis)
    return core if core.sum() >= 6 else mine


def _alpha(pixels: Float, mine: NDArray[np.bool_], color: Float) -> Float:
    """Covered share of each pixel: its place on the line from background to object colour."""
    reach = mine.copy()
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        reach |= np.roll(mine, shift, axis=axis)
    line = color - _background(pixels)
    share = ((pixels - _background(pixels)) @ line) / max(float(line @ line), 1.0)
    return np.where(reach, np.clip(share, 0, 1), 0).astype(np.float32)


def _template_stats() -> dict[str, tuple[float, float, float]]:
    """Area per squared radius and centroid per radius of every shape, measured once on a large painting."""
    stats = {}
    size, radius = 256, np.float32(100)
    axis = (np.arange(size, dtype=np.float32) + 0.5 - size / 2) / radius
    for name in SHAPES:
        a = coverage(name, np.full((1, 2), size / 2, np.float32), np.array([radius]), size)[0]
        total = float(a.sum())
        stats[name] = (
            total / float(radius) ** 2,
            float((a.sum(0) * axis).sum() / total),
            float((a.sum(1) * axis).sum() / total),
        )
    return stats


_STATS = _template_stats()


def _fit(alpha: Float, box: tuple[float, float, float, float]) -> tuple[str, float]:
    """Return the best shape and its overlap, over small changes of place and size around the moments' fit."""
    axis = np.arange(SIZE, dtype=np.float32) + 0.5
    area = float(alpha.sum())
    x, y = float((alpha.sum(0) * axis).sum() / area), float((alpha.sum(1) * axis).sum() / area)
    best = ("unknown", 0.0)
    for name, (unit_area, cx, cy) in _STATS.items():
        radius = np.sqrt(area / unit_area) * np.array([0.94, 1.0, 1.06], dtype=np.float32)
        center = np.stack([x - cx * radius, y - cy * radius], axis=1).astype(np.float32)
        template = coverage(name, center, radius.astype(np.float32))
        overlap = np.minimum(template, alpha).sum((1, 2)) / np.maximum(template, alpha).sum((1, 2))
        if overlap.max() > best[1]:
            best = (name, float(overlap.max()))
    return best
