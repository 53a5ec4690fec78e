"""HPS v2 preprocessing: the whole image, longer side to the model's size, zero-padded to a square.

The released package resizes the *tensor* with torchvision's bicubic filter. Since torchvision 0.17 that
antialiases, before it did not, which moves scores by about 3e-3; `antialias=True` is today's behaviour.
Values outside 0..1 are not clipped, as in the release. `F.interpolate` gives torchvision's bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ._clip_input import CLIP_MEAN, CLIP_STD
from ._image import to_rgb


@dataclass(frozen=True)
class HpsRecipe:
    """How an image becomes the input of the vision tower."""

    size: int
    """Side of the square input in pixels."""
    antialias: bool = True

    @property
    def id(self) -> str:
        """Names the recipe in `identity()`."""
        return (
            f"tensor-bicubic-longest-{self.size}, antialias {self.antialias}, zero-padded, "
            f"mean {list(CLIP_MEAN)}, std {list(CLIP_STD)}"
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Return float32 `[3, size, size]`."""
        values = torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1).to(torch.float32).div(255)
        height, width = values.shape[1:]
        scale = self.size / max(height, width)
        if scale != 1.0:
            shape = (round(height * scale), round(width * scale))
            values = F.interpolate(
                values[None], shape, mode="bicubic", align_corners=False, antialias=self.antialias
            )[0]
        bottom, right = self.size - values.shape[1], self.size - values.shape[2]
        # Left, right, top, bottom; an odd pixel goes right and below, as in the release.
        padding = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
        values = F.pad(values, padding)
        mean = torch.tensor(CLIP_MEAN).view(3, 1, 1)
        return (values - mean) / torch.tensor(CLIP_STD).view(3, 1, 1)
