"""DINO distance: 1 minus the cosine of the DINOv2 features of an image and its reference.

0 is alike, 2 opposite. It sees what is in a picture and how it is arranged rather than texture, as DreamSim
does, from one published checkpoint and without further packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._features import DINO, DINO_FAMILY, Features
from ._protocol import Direction, MetricInfo, Prompt, check_inputs
from ._weights import looked


class Dino:
    """Distance of each image to its reference.

    Args:
        checkpoint: A DINOv2 of transformers; folder or hub id.
        batch: Images per forward pass; halved when memory runs out.
        device: Where to run.
        download: Fetch a hub id that is not on this machine. Off by default: nothing is downloaded unasked.
    """

    name = "dino"
    direction: Direction = "lower"
    needs = frozenset({"reference"})

    def __init__(
        self,
        checkpoint: str | Path = DINO,
        *,
        batch: int = 16,
        device: str = "cpu",
        download: bool = False,
    ) -> None:
        self.features = Features(
            self.name, checkpoint, DINO_FAMILY, batch=batch, device=device, download=download
        )

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs a DINOv2 checkpoint."""
        return looked(cls.name, cls().features.files)

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {"metric": self.name, "backend": "transformers Dinov2Model", **self.features.identity()}

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Distance of each image to its reference, float64 `[n]`."""
        check_inputs(self, images, prompts, reference)
        if not images:
            return np.empty(0)
        ours, theirs = self.features(images), self.features(list(reference or ()))
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        return np.asarray(1 - (ours * theirs).sum(axis=1) / lengths)
