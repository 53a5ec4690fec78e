"""CLIP and SigLIP preprocessing with Pillow, identical on every machine.

The recipe of OpenAI's `clip` and of open_clip: resize the shorter side with bicubic filtering (long side
truncated), crop the centre, divide by 255, normalise. The processors of transformers differ by a pixel or a
grey level on some sizes, and by whether torchvision is installed; a score must not depend on that, so they
are not used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ._image import to_rgb

_BILINEAR = int(Image.Resampling.BILINEAR)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Recipe(Protocol):
    """How a metric turns an image into the input of a vision tower."""

    @property
    def id(self) -> str:
        """Names the recipe in `identity()`."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 `[3, size, size]`."""


@dataclass(frozen=True)
class ImageRecipe:
    """How an image becomes the input of the vision tower."""

    size: int
    """Side of the square input in pixels."""
    fit: Literal["crop", "squash"]
    """"crop": shorter side to `size`, centre crop (CLIP). "squash": both sides to `size` (SigLIP)."""
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resample: Literal["bicubic", "bilinear"] = "bicubic"

    @property
    def id(self) -> str:
        """Names the recipe in `identity()`."""
        return (
            f"pil-{self.resample}-{self.fit}-{self.size}, /255, mean {list(self.mean)}, std {list(self.std)}"
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 `[3, size, size]`."""
        rgb = to_rgb(image)
        if self.fit == "squash":
            rgb = rgb.resize((self.size, self.size), self._filter)
        else:
            rgb = _centre(_shorter_side(rgb, self.size, self._filter), self.size)
        values = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).to(torch.float32).div(255)
        mean = torch.tensor(self.mean).view(3, 1, 1)
        return (values - mean) / torch.tensor(self.std).view(3, 1, 1)

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.resample.upper()]


def recipe_for(folder: Path, family: str, size: int) -> ImageRecipe:
    """Return the recipe of a checkpoint; mean, std and, for SigLIP, the filter come from its preprocessor
    file where it has one. CLIP is always bicubic, as in OpenAI's own code.

    Args:
        folder: Checkpoint folder.
        family: "clip" or "siglip".
        size: Image size from the model's own configuration.
    """
    stated = _stated(folder)
    mean, std = (CLIP_MEAN, CLIP_STD) if family == "clip" else ((0.5,) * 3, (0.5,) * 3)
    return ImageRecipe(
        size=size,
        fit="crop" if family == "clip" else "squash",
        mean=tuple(stated.get("image_mean") or mean),
        std=tuple(stated.get("image_std") or std),
        resample="bilinear" if family != "clip" and stated.get("resample") == _BILINEAR else "bicubic",
    )


def _stated(folder: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            nested: dict[str, Any] = content.get("image_processor", content)
            return nested
    return {}


def _shorter_side(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    width, height = image.size
    if min(width, height) == size:
        return image
    if width <= height:
        return image.resize((size, int(size * height / width)), resample)
    return image.resize((int(size * width / height), size), resample)


def _centre(image: Image.Image, size: int) -> Image.Image:
    left, top = int(round((image.width - size) / 2.0)), int(round((image.height - size) / 2.0))
    return image.crop((left, top, left + size, top + size))
