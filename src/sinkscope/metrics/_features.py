"""Features of images by a vision tower of transformers: CLIP and SigLIP (projected), or DINOv2 (class token).

DINOv2 images are made 224 x 224 with Pillow's bicubic and normalised by ImageNet's mean and deviation, as in
Stein et al. (2023); CLIP images are made the tower's square size in the same way, without cropping, as for
CMMD (Jayasumana et al. 2024), and its features have length 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import UsageError

from ._batches import Batches, exact
from ._clip import SHAPES, SIZES
from ._clip_input import ImageRecipe, recipe_for
from ._files import sha256, versions
from ._loading import load_config, load_model
from ._weights import AbsentWeightsError, hub_folder, once

DINO = "facebook/dinov2-large"
CLIP_336 = "openai/clip-vit-large-patch14-336"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_SIDE = 224
CLIP_FAMILY, DINO_FAMILY = ("clip", "siglip"), ("dinov2",)
_SIZES = SIZES | {
    DINO: "1.2 GB",
    "facebook/dinov2-base": "346 MB",
    CLIP_336: "1.7 GB",
}


class Features:
    """Features by one checkpoint, loaded when first used.

    Args:
        name: Of the metric, for messages.
        checkpoint: Folder, hub id, or "shapes" for the small CLIP of the embedded model.
        families: Model types that make sense.
        batch: Images per forward pass; halved when memory runs out.
        device: Where to run.
        download: Fetch a hub id that is not on this machine.
    """

    def __init__(
        self,
        name: str,
        checkpoint: str | Path,
        families: Sequence[str],
        *,
        batch: int,
        device: str,
        download: bool,
    ) -> None:
        self.name, self.checkpoint, self.families = name, str(checkpoint), tuple(families)
        self.device, self.download = device, download
        self._batches = Batches(name, batch, device)

    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.float64]:
        """Features `[n, dimension]`."""
        with exact(self.device):
            return self._batches(images, self._forward).double().cpu().numpy()

    def identity(self) -> dict[str, Any]:
        """What decides the features."""
        self.config()
        path = Path(self.checkpoint)
        return {
            "checkpoint": path.name if path.is_dir() else self.checkpoint,
            "sha256": sha256(self.files()),
            "dtype": "float32",
            "preprocess": self._recipe.id,
            "versions": versions("torch", "transformers", "pillow"),
        }

    def files(self) -> list[Path]:
        """Files of the weights; raises `AbsentWeightsError`."""
        folder = self._folder
        files = sorted(folder.glob("model*.safetensors"))
        if not files or not (folder / "config.json").is_file():
            raise AbsentWeightsError(
                f"Metric {self.name!r} has no checkpoint in {folder}: expected config.json and "
                "model.safetensors.",
                f"Fetch one with: hf download {DINO if 'dinov2' in self.families else CLIP_336}, and name it "
                "as checkpoint.",
            )
        return files

    def config(self) -> Any:
        """Configuration of the checkpoint; raises `UsageError` where it is of another family."""
        config = once("config", [self.files()[0].parent / "config.json"], None, self._read_config)
        if config.model_type not in self.families:
            raise UsageError(
                f"Metric {self.name!r}: the checkpoint in {self._folder} is a {config.model_type!r} model, "
                f"expected {' or '.join(self.families)}."
            )
        return config

    @cached_property
    def _folder(self) -> Path:
        if self.checkpoint == SHAPES:
            return Path(import_module("sinkscope.shapes").clip_folder())
        if Path(self.checkpoint).is_dir():
            return Path(self.checkpoint)
        return hub_folder(self.checkpoint, download=self.download, size=_SIZES.get(self.checkpoint, ""))

    @cached_property
    def _recipe(self) -> ImageRecipe:
        config = self.config()
        if config.model_type in DINO_FAMILY:
            return ImageRecipe(DINO_SIDE, "squash", IMAGENET_MEAN, IMAGENET_STD)
        stated = recipe_for(self._folder, config.model_type, int(config.vision_config.image_size))
        return ImageRecipe(stated.size, "squash", stated.mean, stated.std)

    def _forward(self, images: Sequence[Image.Image]) -> Tensor:
        recipe, model = self._recipe, self._model()
        values = torch.stack([recipe(image) for image in images]).to(self.device)
        if self.config().model_type in DINO_FAMILY:
            return model(pixel_values=values).last_hidden_state[:, 0].float()
        found = model.get_image_features(pixel_values=values)
        # transformers 4 returns the projected features, 5 an output object.
        tensor: Tensor = found if isinstance(found, Tensor) else found.pooler_output
        return torch.nn.functional.normalize(tensor.float(), dim=-1)

    def _read_config(self) -> Any:
        return load_config(self._folder)

    def _model(self) -> Any:
        # A CLIP that a metric of prompts has loaded already is the same object.
        kind = "two towers" if self.families == CLIP_FAMILY else "features"
        return once(kind, self.files(), (self.device, "float32"), self._read_model)

    def _read_model(self) -> Any:
        return load_model(self._folder, metric=self.name, dtype=torch.float32).to(self.device)
