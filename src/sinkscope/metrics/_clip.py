"""CLIP-T: cosine similarity between an image and its prompt, by any CLIP or SigLIP checkpoint of
transformers.

Reported raw (not times 100), in float32. Text is padded to the model's full length, so that a prompt's
features do not depend on its batch; prompts longer than that are cut, keeping the end token. No text cleaning
is applied (OpenAI's own loader repairs odd Unicode and HTML first; all GenEval prompts give the same tokens
either way).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import MissingWeightsError, UsageError

from ._clip_input import ImageRecipe, recipe_for
from ._files import sha256, versions
from ._protocol import Direction, MetricInfo, Prompt, check_inputs

FAMILIES = ("clip", "siglip")
SHAPES = "shapes"
"""Stands for the small CLIP that comes with the embedded model."""


class _Loaded(NamedTuple):
    model: Any
    tokenizer: Any
    recipe: ImageRecipe
    family: str
    tokens: int


class ClipT:
    """Cosine similarity of image and prompt features.

    Args:
        checkpoint: Folder, hub id (for example "openai/clip-vit-base-patch32"), or None for the small CLIP of
            the embedded model, which knows coloured shapes and nothing else.
        batch: Images per forward pass.
        device: Where to run; the dtype is float32 everywhere.
        download: Fetch a hub id that is not on this machine. Off by default: nothing is downloaded unasked.
    """

    name = "clip_t"
    direction: Direction = "higher"
    needs = frozenset({"prompt"})

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        batch: int = 16,
        device: str = "cpu",
        download: bool = False,
    ) -> None:
        if batch < 1:
            raise UsageError(f"Got batch={batch}, expected at least 1.")
        self.checkpoint = SHAPES if checkpoint is None else str(checkpoint)
        self.batch, self.device, self.download = batch, device, download
        self._loaded: _Loaded | None = None
        self._text: dict[str, Tensor] = {}

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs the embedded model's CLIP; other checkpoints are named by option."""
        try:
            cls()._weights()
        except MissingWeightsError as error:
            how = 'Name another checkpoint: metrics.get("clip_t", checkpoint="openai/clip-vit-base-patch32").'
            return MetricInfo(cls.name, "missing", reason=str(error), how=how)
        return MetricInfo(cls.name, "ready")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers. A local folder is given by its name and hash, not by where it lies."""
        loaded = self._load()
        return {
            "metric": self.name,
            "backend": f"transformers.{type(loaded.model).__name__}",
            "checkpoint": Path(self.checkpoint).name if Path(self.checkpoint).is_dir() else self.checkpoint,
            "sha256": sha256(self._weights()),
            "dtype": "float32",
            "preprocess": loaded.recipe.id,
            "text": f"{type(loaded.tokenizer).__name__}, padded and cut to {loaded.tokens} tokens",
            "versions": versions("torch", "transformers", "tokenizers", "pillow"),
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Cosine similarity of each image to its prompt, float64 `[n]` in [-1, 1]."""
        check_inputs(self, images, prompts, reference)
        texts = [prompt.text for prompt in prompts or ()]
        out = np.empty(len(images))
        for start in range(0, len(images), self.batch):
            part = slice(start, start + self.batch)
            cosine = (self._image_features(images[part]) * self._text_features(texts[part])).sum(dim=-1)
            out[part] = cosine.double().cpu().numpy()
        return out

    def _image_features(self, images: Sequence[Image.Image]) -> Tensor:
        loaded = self._load()
        values = torch.stack([loaded.recipe(image) for image in images]).to(self.device)
        with torch.inference_mode():
            return _unit(loaded.model.get_image_features(pixel_values=values))

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        """Features `[n, dim]`; each distinct prompt is encoded once, since every arm of a study asks for it
        again.
        """
        loaded = self._load()
        if new := [text for text in dict.fromkeys(texts) if text not in self._text]:
            options = {"padding": "max_length", "truncation": True, "max_length": loaded.tokens}
            inputs = loaded.tokenizer(new, return_tensors="pt", **options).to(self.device)
            # SigLIP was trained to attend to its padding; CLIP's causal mask makes the padding mask
            # immaterial.
            mask = {"attention_mask": inputs["attention_mask"]} if loaded.family == "clip" else {}
            with torch.inference_mode():
                features = _unit(loaded.model.get_text_features(input_ids=inputs["input_ids"], **mask))
            self._text.update(zip(new, features, strict=True))
        return torch.stack([self._text[text] for text in texts])

    def _load(self) -> _Loaded:
        if self._loaded is None:
            from transformers import AutoConfig, AutoModel, AutoTokenizer

            folder = self._weights()[0].parent
            config = AutoConfig.from_pretrained(folder)
            if config.model_type not in FAMILIES:
                raise UsageError(
                    f"Checkpoint {self.checkpoint!r} is a {config.model_type!r} model, "
                    f"expected {' or '.join(FAMILIES)}."
                )
            self._loaded = _Loaded(
                # A half-precision file would otherwise give a half-precision model: scores in steps of
                # 2.4e-4.
                model=AutoModel.from_pretrained(folder, use_safetensors=True).float().eval().to(self.device),
                tokenizer=AutoTokenizer.from_pretrained(folder),
                recipe=recipe_for(folder, config.model_type, int(config.vision_config.image_size)),
                family=config.model_type,
                tokens=int(config.text_config.max_position_embeddings),
            )
        return self._loaded

    def _weights(self) -> list[Path]:
        """Files of the checkpoint's weights, all in its folder."""
        folder = self._folder()
        files = sorted(folder.glob("model*.safetensors"))
        if files and (folder / "config.json").is_file():
            return files
        raise MissingWeightsError(
            f"No CLIP checkpoint for {self.checkpoint!r}: expected config.json and model.safetensors "
            f"in {folder}. Fetch one with: hf download openai/clip-vit-base-patch32 (605 MB), and name "
            "it as checkpoint."
        )

    def _folder(self) -> Path:
        if self.checkpoint == SHAPES:
            return Path(import_module("sinkscope.shapes").clip_folder())
        if Path(self.checkpoint).is_dir():
            return Path(self.checkpoint)
        return _hub_folder(self.checkpoint, self.download)


def _unit(features: Any) -> Tensor:
    # transformers 4 returns the projected features, 5 an output object that holds them as pooler_output.
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    unit: Tensor = tensor / tensor.norm(dim=-1, keepdim=True)
    return unit


def _hub_folder(name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*.model", "model*.safetensors"]
    try:
        return Path(snapshot_download(name, local_files_only=not download, allow_patterns=patterns))
    except HFValidationError as error:
        raise UsageError(
            f"Got checkpoint {name!r}: no such folder, and not a hub id like 'owner/name'."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise MissingWeightsError(
            f"Checkpoint {name!r} is not on this machine. Fetch it with: hf download {name} "
            "(ViT-B/32: 605 MB, ViT-L/14: 1.7 GB), or pass download=True, or name a local folder."
        ) from error
