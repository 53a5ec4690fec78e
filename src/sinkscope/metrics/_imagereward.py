"""ImageReward v1.0 (Xu et al. 2023): BLIP reads the prompt while seeing the image; an MLP gives a reward.

The released `.pt` file is converted once (`sinkscope convert imagereward`); this module reads the
safetensors and runs transformers' BLIP. The text encoder attends in both directions (as the package calls
it), the MLP has no activations, and the reward is standardised with the released mean and deviation. Prompts
are padded and cut to 35 tokens; `notes` says which were cut. The reward has no fixed range.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import UsageError

from ._batches import Batches, dtype_named, exact
from ._clip_input import ImageRecipe
from ._files import sha256, versions
from ._loading import load_model, load_tokenizer
from ._protocol import Direction, MetricInfo, Prompt, check_inputs
from ._two_towers import cut_note
from ._weights import AbsentWeightsError, looked, once, provenance, weights_folder

FOLDER = "imagereward-v1.0"
SIZE = "1.8 GB"
TOKENIZER = "google-bert/bert-base-uncased"
HOW = (
    "Fetch and convert it: hf download THUDM/ImageReward ImageReward.pt med_config.json --local-dir . && "
    f"hf download {TOKENIZER} --include '*.json' --include '*.txt' && "
    "sinkscope convert imagereward ImageReward.pt med_config.json"
)
TOKENS = 35
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LAYERS = (0, 2, 4, 6, 7)
"""Places of the linear layers in the released MLP; between them it has dropout only."""
PARTS = ("vision_model/model.safetensors", "text_model/model.safetensors", "head.safetensors")


class _Loaded(NamedTuple):
    vision: Any
    text: Any
    head: list[tuple[Tensor, Tensor]]
    """Weight and bias of each linear layer."""


class ImageReward:
    """ImageReward v1.0 of each image for its prompt.

    Args:
        checkpoint: Folder that `sinkscope convert imagereward` wrote; None: `imagereward-v1.0` in the weights
            folder.
        batch: Images per forward pass; halved when memory runs out.
        device: Where to run.
        dtype: "float32"; half precision rounds scores to steps as large as the effects.
    """

    name = "imagereward"
    direction: Direction = "higher"
    needs = frozenset({"prompt"})

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        batch: int = 8,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self._batches = Batches(self.name, batch, device)
        self.checkpoint = weights_folder() / FOLDER if checkpoint is None else Path(checkpoint)
        self.device, self.dtype = device, dtype
        self._torch_dtype = dtype_named(dtype)

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs the converted checkpoint."""
        return looked(cls.name, cls()._files)

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, with the file the weights were converted from."""
        files = self._files()
        device = {} if self.dtype == "float32" else {"device": torch.device(self.device).type}
        return {
            "metric": self.name,
            "backend": "transformers, blip",
            "checkpoint": self.checkpoint.name,
            "sha256": sha256(files),
            "source": provenance(self.checkpoint).get("source"),
            "dtype": self.dtype,
            **device,
            "preprocess": self._recipe().id,
            "text": f"{type(self._tokenizer()).__name__}, padded and cut to {TOKENS} tokens",
            "versions": versions("torch", "transformers", "tokenizers", "pillow"),
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Reward of each image for its prompt, float64 `[n]`."""
        check_inputs(self, images, prompts, reference)
        if not images:
            return np.empty(0)
        pairs = list(zip(images, (prompt.text for prompt in prompts or ()), strict=True))
        with exact(self.device):
            reward = self._batches(pairs, partial(self._rewards, self._load(), self._recipe()))
        return reward.double().cpu().numpy()

    def notes(self, prompts: Sequence[Prompt]) -> list[str]:
        """Per prompt: that it was cut and to how many tokens, or an empty text."""
        texts = [prompt.text for prompt in prompts]
        counts = [len(ids) for ids in self._tokenizer()(texts, verbose=False)["input_ids"]] if texts else []
        return [cut_note(count, TOKENS) for count in counts]

    def _rewards(
        self, loaded: _Loaded, recipe: ImageRecipe, pairs: Sequence[tuple[Image.Image, str]]
    ) -> Tensor:
        values = torch.stack([recipe(image) for image, _ in pairs]).to(self.device, self._torch_dtype)
        seen = loaded.vision(pixel_values=values).last_hidden_state
        options = {"padding": "max_length", "truncation": True, "max_length": TOKENS}
        words = self._tokenizer()([text for _, text in pairs], return_tensors="pt", **options)
        read = loaded.text(
            input_ids=words["input_ids"].to(self.device),
            attention_mask=words["attention_mask"].to(self.device),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self.device),
            # The configuration says decoder, for the cross-attention; the call attends both ways.
            is_decoder=False,
        ).last_hidden_state
        out = read[:, 0].float()
        for weight, bias in loaded.head:
            out = F.linear(out, weight, bias)
        return (out[:, 0] - MEAN) / STD

    # ---- files

    def _files(self) -> list[Path]:
        folder = self.checkpoint
        files = [folder / part for part in PARTS]
        if absent := [path for path in files if not path.is_file()]:
            raise AbsentWeightsError(
                f"ImageReward lacks {' and '.join(str(path) for path in absent)} ({SIZE} in all), made from "
                f"ImageReward.pt ({SIZE}) and med_config.json.",
                HOW,
            )
        if provenance(folder).get("metric") != self.name:
            raise UsageError(
                f"Metric 'imagereward': {folder} was not written by 'sinkscope convert imagereward'. "
                "Name the "
                f"converted folder. {HOW}"
            )
        return files

    def _recipe(self) -> ImageRecipe:
        size = int(self._load().vision.config.image_size)
        return ImageRecipe(size=size, fit="crop")

    def _tokenizer(self) -> Any:
        folder = self.checkpoint
        self._files()
        files = [path for name in ("tokenizer.json", "vocab.txt") if (path := folder / name).is_file()]
        return once("tokenizer", files, str(folder), lambda: load_tokenizer(folder, metric=self.name))

    def _load(self) -> _Loaded:
        loaded: _Loaded = once(
            "imagereward", self._files(), (self.device, self.dtype), lambda: self._read(self.checkpoint)
        )
        return loaded

    def _read(self, folder: Path) -> _Loaded:
        from safetensors.torch import load_file
        from transformers import BlipTextModel, BlipVisionModel

        read = partial(load_model, metric=self.name, dtype=self._torch_dtype)
        head = {
            name: value.float() for name, value in load_file(folder / PARTS[2], device=self.device).items()
        }
        names = [f"mlp.layers.{place}" for place in LAYERS]
        if absent := [name for name in names if f"{name}.weight" not in head]:
            raise UsageError(
                f"Metric 'imagereward': {folder / PARTS[2]} lacks {absent[0]!r}. Convert it again."
            )
        return _Loaded(
            vision=read(folder / "vision_model", model_class=BlipVisionModel).to(self.device),
            text=read(folder / "text_model", model_class=BlipTextModel, add_pooling_layer=False).to(
                self.device
            ),
            head=[(head[f"{name}.weight"], head[f"{name}.bias"]) for name in names],
        )
