"""The gallery: baseline, sink removed and random removed side by side, small enough for the page.

A video is shown as a strip of a few evenly spaced frames; the strips of its arms stand below each other.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from sinkscope.report import _metrics as metrics
from sinkscope.report._arms import Arm
from sinkscope.report._format import number

BUDGET_BYTES = 7_000_000
NO_IMAGES = "The run folder holds no images."
LADDER: tuple[tuple[int, int | None], ...] = (
    (256, None), (192, None), (128, None), (128, 256), (96, 256), (64, None), (64, 256), (64, 64),
)  # fmt: skip
SUFFIXES = (".png", ".apng")
STRIP, GAP, BETWEEN = 5, 2, (128, 128, 128)
"""Frames of a strip, pixels between them, and their colour."""
STRIP_SIDE = 128
"""Pixels of the larger side of a frame in a strip, at most."""
MOST_VIDEOS = 32
"""Units of videos that are shown: to draw one strip a whole video is decoded, about a second for 81 frames of
480 x 832."""


@dataclass(frozen=True)
class Shot:
    """One image of a unit in one arm."""

    arm: str
    source: str
    why: str
    values: list[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """One unit: its prompt and its image in every arm."""

    unit: str
    prompt: str
    task: str
    shots: list[Shot]
    distances: dict[str, dict[str, float]] = field(default_factory=dict)
    """arm -> metric -> distance to the baseline image, larger means further."""


@dataclass(frozen=True)
class Gallery:
    """All cards with a note of how the thumbnails were made."""

    cards: list[Card]
    note: str
    damaged: list[str]
    moving: bool = False
    """Whether units are videos, and thumbnails strips of frames."""


def build_gallery(
    folder: Path, scores: pd.DataFrame | None, arms: Mapping[str, Arm], *, budget: int = BUDGET_BYTES
) -> Gallery:
    """Thumbnails and scores of the run's units.

    Args:
        folder: The run folder.
        scores: Its scores, or None (then prompts and values are not available).
        arms: The arms to show, in order.
        budget: Bytes of all thumbnails together; sizes, colours, then the number of units give way.
    """
    units = list_units(folder, scores, arms)
    moving = next((folder / "units").glob("*/*.apng"), None) is not None
    suffix = SUFFIXES[moving]
    names = [
        name for name in arms if any((folder / "units" / name / f"{u}{suffix}").is_file() for u in units)
    ]
    if not names:
        reads = next((folder / "units").glob("*/*.safetensors"), None) is not None
        why = "The units of this run are arrays of a model that reads." if reads else NO_IMAGES
        return Gallery([], why, [])
    paths = [folder / "units" / arm / f"{unit}{suffix}" for unit in units for arm in names]
    side, colors, cost = _choose_size(paths, budget)
    most = max(1, int(budget // max(cost * len(names), 1.0)))
    if moving:
        most = min(most, MOST_VIDEOS)
    shown = units if most >= len(units) else _spread(units, most, scores)
    facts, values = _facts(scores), _values(scores)
    damaged: list[str] = []
    cards = []
    # Pillow lets other threads run while it decodes.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        files = [folder / "units" / arm / f"{unit}{suffix}" for unit in shown for arm in names]
        drawn = pool.map(lambda path: _thumbnail(path, side, colors), files)
        thumbnails = dict(zip(((unit, arm) for unit in shown for arm in names), drawn, strict=True))
    for unit in shown:
        shots = []
        for arm in names:
            source, why = thumbnails[unit, arm]
            if why in DAMAGED:
                damaged.append(f"units/{arm}/{unit}{suffix}")
            shots.append(Shot(arm, source, why, _captions(values.get((unit, arm), {}))))
        prompt, task = facts.get(unit, ("prompt not available", ""))
        far = {arm: _distances(values.get((unit, arm), {})) for arm in names}
        cards.append(Card(unit, prompt, task, shots, {arm: d for arm, d in far.items() if d}))
    return Gallery(cards, _note(len(shown), len(units), side, colors, moving), damaged, moving)


def list_units(folder: Path, scores: pd.DataFrame | None, arms: Mapping[str, Arm]) -> list[str]:
    """Units in the order of the scores, or of the files when there are none."""
    if scores is not None:
        return [str(u) for u in scores["unit"].drop_duplicates()]
    return sorted({unit for arm in arms for unit in pictures(folder / "units" / arm)})


def pictures(folder: Path) -> dict[str, Path]:
    """Unit -> file of its image or video, of one arm."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.stem: path for path in found if path.suffix in SUFFIXES}


def _spread(units: Sequence[str], most: int, scores: pd.DataFrame | None) -> list[str]:
    """`most` units spread evenly over the tasks, in their first order."""
    facts = _facts(scores)
    ordered = sorted(units, key=lambda u: facts.get(u, ("", ""))[1])
    chosen = {ordered[i] for i in np.linspace(0, len(ordered) - 1, most).astype(int)}
    return [u for u in units if u in chosen]


DAMAGED = ("image damaged", "video damaged")


def _load(path: Path) -> list[Image.Image]:
    """An image, or the frames of a video that are shown; Pillow's errors where the file is broken."""
    with Image.open(path) as file:
        count = getattr(file, "n_frames", 1)
        frames = []
        for index in np.unique(np.linspace(0, count - 1, min(count, STRIP)).round().astype(int)):
            file.seek(int(index))
            frames.append(file.convert("RGB"))
        return frames


def _encode(frames: Sequence[Image.Image], side: int, colors: int | None) -> bytes:
    small = [frame.copy() for frame in frames]
    for frame in small:
        frame.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture = small[0] if len(small) == 1 else _strip(small)
    if colors is not None:
        picture = picture.quantize(colors, method=Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _strip(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames from left to right."""
    width, height = frames[0].size
    strip = Image.new("RGB", (len(frames) * (width + GAP) - GAP, height), BETWEEN)
    for index, frame in enumerate(frames):
        strip.paste(frame, (index * (width + GAP), 0))
    return strip


def _loaded(path: Path) -> list[Image.Image] | None:
    try:
        return _load(path)
    except (OSError, SyntaxError, ValueError, EOFError):  # what Pillow raises for a truncated or broken file
        return None


def _thumbnail(path: Path, side: int, colors: int | None) -> tuple[str, str]:
    moving = path.suffix == ".apng"
    if not path.is_file():
        return "", f"{'video' if moving else 'image'} not available"
    frames = _loaded(path)
    if frames is None:
        return "", DAMAGED[moving]
    data = _encode(frames, side, colors)
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii"), ""


def _choose_size(paths: Sequence[Path], budget: int) -> tuple[int, int | None, float]:
    """The first rung of the ladder on which a sample says that everything fits; the last one otherwise."""
    there = [p for p in paths if p.is_file()]
    moving = any(p.suffix == ".apng" for p in there)
    most = 8 if moving else 16
    sample = [there[i] for i in np.linspace(0, len(there) - 1, min(len(there), most)).astype(int)]
    loaded = [frames for frames in map(_loaded, sample) if frames is not None]
    # Frames of a strip are small on the page, where five of them share a line.
    largest = STRIP_SIDE if moving else max(side for side, _ in LADDER)
    side, colors, cost = *LADDER[-1], 0.0
    for side, colors in LADDER:
        if side > largest:
            continue
        sizes = [4 / 3 * len(_encode(frames, side, colors)) for frames in loaded]
        cost = float(np.mean(sizes)) if sizes else 0.0
        if cost * len(there) <= budget:
            break
    return side, colors, cost


def _note(shown: int, total: int, side: int, colors: int | None, moving: bool) -> str:
    parts = (
        []
        if shown == total
        else [f"{shown} of {total} units are shown, spread over the tasks, to keep the page light."]
    )
    if moving:
        parts.append(
            f"A strip shows up to {STRIP} evenly spaced frames, the first and the last among them, from left "
            "to right."
        )
    what = "Frames are shown" if moving else "Shown"
    how = f"{what} with at most {side} px a side" + (f" and {colors} colours" if colors else "")
    files = "videos are in units/ and play in a browser" if moving else "images are in units/"
    return " ".join([*parts, f"{how}; the lossless {files}."])


def _facts(scores: pd.DataFrame | None) -> dict[str, tuple[str, str]]:
    if scores is None:
        return {}
    first = scores.drop_duplicates("unit")
    prompt = first["prompt"] if "prompt" in first.columns else [None] * len(first)
    task = first["task"] if "task" in first.columns else [None] * len(first)
    blank = "prompt not available"
    return {
        str(u): (str(p) if isinstance(p, str) else blank, str(t) if isinstance(t, str) else "")
        for u, p, t in zip(first["unit"], prompt, task, strict=True)
    }


def _values(scores: pd.DataFrame | None) -> dict[tuple[str, str], dict[str, float]]:
    out: dict[tuple[str, str], dict[str, float]] = {}
    if scores is not None:
        for unit, arm, metric, value in zip(
            *(scores[c] for c in ("unit", "arm", "metric", "value")), strict=True
        ):
            out.setdefault((str(unit), str(arm)), {})[str(metric)] = float(value)
    return out


def _captions(values: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(SHORT.get(m, m), _said(m, values[m])) for m in metrics.order(list(values))]


SHORT = {
    "frame_change": "frame change",
    "frame_change_rmse": "change RMSE",
    "scene": "scene",
    "clip_t": "CLIP-T",
    "lpips": "LPIPS",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "rmse": "RMSE",
}


def _said(metric: str, value: float) -> str:
    if metric == "scene" and value in (0.0, 1.0):
        return "right" if value else "wrong"
    return number(value)


def _distances(values: Mapping[str, float]) -> dict[str, float]:
    far = {
        m: metrics.words(m).away * v for m, v in values.items() if metrics.words(m).away and np.isfinite(v)
    }
    return {m: round(v, 6) for m, v in far.items()}
