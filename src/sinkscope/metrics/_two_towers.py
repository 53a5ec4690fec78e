"""What metrics made of a CLIP or SigLIP model share: loading, preprocessing, features, cosines.

Text is padded to the model's full length, so that a prompt's features do not depend on its batch; longer
prompts are cut, keeping the end token, and `notes` says which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import UsageError

from ._batches import Batches, dtype_named, exact
from ._clip_input import Recipe, recipe_for
from ._files import sha256, versions
from ._loading import load_config, load_model, load_tokenizer
from ._protocol import Direction, Prompt, check_inputs
from ._weights import AbsentWeightsError, once

MODELS = {"clip": "CLIPModel", "siglip": "SiglipModel"}


class _Text(NamedTuple):
    tokenizer: Any
    tokens: int
    """Length that every prompt is padded and cut to."""


class TwoTowers(ABC):
    """Cosine similarity of image and prompt features of one checkpoint.

    A metric names its weights in `_folder`, and may change the image recipe and the scale of the score.
    """

    name: ClassVar[str]
    direction: Direction = "higher"
    needs = frozenset({"prompt"})
    families: ClassVar[tuple[str, ...]] = ("clip", "siglip")

    def __init__(self, *, batch: int, device: str, dtype: str) -> None:
        self._batches = Batches(self.name, batch, device)
        self.device, self.dtype = device, dtype
        self._torch_dtype = dtype_named(dtype)
        self._text_features: dict[str, Tensor] = {}

    # ---- what a metric says of itself

    @abstractmethod
    def _folder(self) -> Path:
        """The checkpoint's folder; raises `AbsentWeightsError`."""

    def _tokenizer_folder(self) -> Path:
        return self._folder()

    def _label(self) -> str:
        """The checkpoint's name in `identity`, without where it lies."""
        return self._folder().name

    def _recipe(self) -> Recipe:
        config = self._config()
        return recipe_for(self._folder(), config.model_type, int(config.vision_config.image_size))

    def _scaled(self, cosine: Tensor) -> Tensor:
        return cosine

    # ---- the protocol

    def identity(self) -> dict[str, Any]:
        """What decides the numbers. A local folder is given by its name and hash, not by where it lies."""
        text = self._text()
        device = {} if self.dtype == "float32" else {"device": torch.device(self.device).type}
        return {
            "metric": self.name,
            "backend": f"transformers.{MODELS[self._config().model_type]}",
            "checkpoint": self._label(),
            "sha256": sha256(self._files()),
            "dtype": self.dtype,
            **device,
            "preprocess": self._prepare.id,
            "text": f"{type(text.tokenizer).__name__}, padded and cut to {text.tokens} tokens",
            "versions": versions("torch", "transformers", "tokenizers", "pillow"),
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Score of each image with its prompt, float64 `[n]`."""
        check_inputs(self, images, prompts, reference)
        if not images:
            return np.empty(0)
        texts = [prompt.text for prompt in prompts or ()]
        with exact(self.device):
            pictures = self._batches(images, self._image_features)
            cosine = (pictures * self._features_of(texts)).sum(dim=-1)
            return self._scaled(cosine).double().cpu().numpy()

    def notes(self, prompts: Sequence[Prompt]) -> list[str]:
        """Per prompt: that it was cut and to how many tokens, or an empty text."""
        text, texts = self._text(), [prompt.text for prompt in prompts]
        counts = [len(ids) for ids in text.tokenizer(texts, verbose=False)["input_ids"]] if texts else []
        return [cut_note(count, text.tokens) for count in counts]

    # ---- features

    def _image_features(self, images: Sequence[Image.Image]) -> Tensor:
        recipe, model = self._prepare, self._model()
        values = torch.stack([recipe(image) for image in images])
        return _unit(model.get_image_features(pixel_values=values.to(self.device, self._torch_dtype)))

    def _features_of(self, texts: Sequence[str]) -> Tensor:
        """Features `[n, dim]`; each distinct prompt is encoded once, since every arm asks for it again."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._text_features]:
            features = self._batches(new, self._encode)
            self._text_features.update(zip(new, features, strict=True))
        return torch.stack([self._text_features[text] for text in texts])

    def _encode(self, texts: Sequence[str]) -> Tensor:
        text = self._text()
        options = {"padding": "max_length", "truncation": True, "max_length": text.tokens}
        inputs = text.tokenizer(list(texts), return_tensors="pt", **options).to(self.device)
        # SigLIP was trained to attend to its padding; CLIP's causal mask makes the padding mask immaterial.
        mask = {"attention_mask": inputs["attention_mask"]} if self._config().model_type == "clip" else {}
        return _unit(self._model().get_text_features(input_ids=inputs["input_ids"], **mask))

    # ---- files

    def _files(self) -> list[Path]:
        folder = self._folder()
        files = sorted(folder.glob("model*.safetensors"))
        if files and (folder / "config.json").is_file():
            return files
        pickles = sorted(folder.glob("pytorch_model*.bin"))
        made = (
            f"It holds {pickles[0].name}, a pickle: sinkscope convert hf {folder} --out NEW_FOLDER makes "
            "safetensors "
            "of it; name NEW_FOLDER as checkpoint."
            if pickles
            else "Fetch one with: hf download openai/clip-vit-base-patch32 (605 MB), name it as checkpoint."
        )
        raise AbsentWeightsError(
            f"Metric {self.name!r} has no checkpoint in {folder}: expected config.json and "
            "model.safetensors.",
            made,
        )

    def _config(self) -> Any:
        config = once("config", [self._files()[0].parent / "config.json"], None, self._read_config)
        if config.model_type not in self.families:
            raise UsageError(
                f"Metric {self.name!r}: the checkpoint in {self._folder()} is a {config.model_type!r} model, "
                f"expected {' or '.join(self.families)}."
            )
        return config

    def _read_config(self) -> Any:
        return load_config(self._folder())

    def _model(self) -> Any:
        self._config()
        return once("two towers", self._files(), (self.device, self.dtype), self._read_model)

    def _read_model(self) -> Any:
        return load_model(self._folder(), metric=self.name, dtype=self._torch_dtype).to(self.device)

    def _text(self) -> _Text:
        tokens = int(self._config().text_config.max_position_embeddings)
        folder = self._tokenizer_folder()
        files = [path for path in sorted(folder.glob("*.json")) if path.is_file()]
        tokenizer = once("tokenizer", files, str(folder), lambda: load_tokenizer(folder, metric=self.name))
        return _Text(tokenizer, tokens)

    @cached_property
    def _prepare(self) -> Recipe:
        return self._recipe()


def cut_note(count: int, limit: int) -> str:
    """What a row says of a prompt of `count` tokens where `limit` are taken; empty if it was not cut."""
    return f"prompt cut from {count} to {limit} tokens" if count > limit else ""


def _unit(features: Any) -> Tensor:
    # transformers 4 returns the projected features, 5 an output object that holds them as pooler_output.
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    wide = tensor.float()
    unit: Tensor = wide / wide.norm(dim=-1, keepdim=True)
    return unit
