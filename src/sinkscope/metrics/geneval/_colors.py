"""Which of ten colours an object has, by CLIP: its pixels on grey, cut to its box, against three sentences
per colour (GenEval; the zero-shot recipe of clip-benchmark).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .._batches import exact
from .._clip import ClipT
from ._judge import COLORS, Found

CLIP = "openai/clip-vit-large-patch14"
BACKGROUND = "#999"
TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)


def crop(image: Image.Image, item: Found) -> Image.Image:
    """The object on the background colour, cut to its box."""
    if item.mask is not None:
        blank = Image.new("RGB", image.size, color=BACKGROUND)
        image = Image.composite(image, blank, Image.fromarray(np.asarray(item.mask, dtype=np.uint8) * 255))
    left, top, right, bottom = (round(float(side)) for side in item.box)
    return image.crop((left, top, right, bottom))


class ColorClassifier(ClipT):
    """Colours of objects.

    Args:
        checkpoint: A CLIP checkpoint.
        batch: Crops per forward pass.
        device: Where to run.
        download: Fetch a hub id that is not on this machine.
    """

    name = "geneval"

    def __init__(self, checkpoint: str | Path, *, batch: int, device: str, download: bool) -> None:
        super().__init__(checkpoint, batch=batch, device=device, download=download)
        self._sentences: dict[str, Tensor] = {}

    def logits(self, crops: Sequence[Image.Image], name: str) -> Tensor:
        """Cosines `[crop, color]` times 100; `name` is the class of the objects."""
        with exact(self.device):
            return 100 * self._batches(crops, self._image_features) @ self._colors(name).T

    def __call__(self, image: Image.Image, name: str, objects: Sequence[Found]) -> list[str]:
        """A colour for each object of an image."""
        if not objects:
            return []
        best = self.logits([crop(image, item) for item in objects], name).argmax(dim=1)
        return [COLORS[index] for index in best.tolist()]

    def _colors(self, name: str) -> Tensor:
        """Unit vectors `[color, dim]`: means of unit vectors of sentences, made unit again."""
        if name not in self._sentences:
            texts = [form.format(color=color, name=name) for color in COLORS for form in TEMPLATES]
            features = self._features_of(texts).unflatten(0, (len(COLORS), len(TEMPLATES))).mean(dim=1)
            self._sentences[name] = torch.nn.functional.normalize(features, dim=-1)
        return self._sentences[name]
