"""Distances between sets of images, an arm and its reference: which there are, and their features.

A distance is one number per pair of arms, not one per image, so it is no `Metric`; `Run.score` takes the
names all the same and writes `distances.parquet`. The arithmetic is in `sinkscope.stats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from sinkscope.errors import UsageError, unknown

from ._clip import SHAPES
from ._features import CLIP_336, CLIP_FAMILY, DINO, DINO_FAMILY, Features
from ._protocol import MetricInfo
from ._weights import looked

__all__ = ["DISTANCES", "SetDistance", "available", "features"]


@dataclass(frozen=True)
class SetDistance:
    """A distance between sets."""

    kind: str
    """"polynomial" or "gaussian" kernel, or "frechet"."""
    checkpoint: str
    """Backbone unless another is named."""
    families: tuple[str, ...]
    """Backbones that make sense."""


DISTANCES: dict[str, SetDistance] = {
    "kid": SetDistance("polynomial", DINO, DINO_FAMILY + CLIP_FAMILY),
    "cmmd": SetDistance("gaussian", CLIP_336, CLIP_FAMILY),
    "fd_dinov2": SetDistance("frechet", DINO, DINO_FAMILY),
    "fd_clip": SetDistance("frechet", CLIP_336, CLIP_FAMILY),
}


def features(name: str, *, shapes: bool = False, **options: Any) -> Features:
    """The features of a distance.

    Args:
        name: A key of `DISTANCES`.
        shapes: The images are of the embedded model: its CLIP is the backbone where it makes sense and no
            other is named.
        **options: `checkpoint`, `batch`, `device`, `download`.

    Raises:
        UsageError: An unknown name or option.
    """
    if name not in DISTANCES:
        raise unknown("distance", name, DISTANCES)
    about = DISTANCES[name]
    default = SHAPES if shapes and "clip" in about.families else about.checkpoint
    try:
        signature(_features).bind(name, about, default, **options)
    except TypeError as error:
        raise UsageError(
            f"Distance {name!r}: {error}. Its options: checkpoint, batch, device, download."
        ) from error
    make: Callable[..., Features] = _features
    return make(name, about, default, **options)


def _features(
    name: str,
    about: SetDistance,
    default: str,
    *,
    checkpoint: str | Path | None = None,
    batch: int = 16,
    device: str = "cpu",
    download: bool = False,
) -> Features:
    return Features(
        name, checkpoint or default, about.families, batch=batch, device=device, download=download
    )


def available(options: Mapping[str, Mapping[str, Any]] | None = None) -> list[MetricInfo]:
    """Say for every distance whether its backbone is on this machine."""
    given = options or {}
    return [looked(name, features(name, **given.get(name, {})).files) for name in DISTANCES]
