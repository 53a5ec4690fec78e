"""Inputs that only some image models take besides latents, timestep and text: roles and places in a sequence,
tokens of another model, layers of the text encoder, vectors of CLIP.

As in `_meta_inputs`, made by parameter name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ._meta_inputs import Size


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


class Sequences:
    """One method per name of a parameter; None where the model goes without."""

    _root: nn.Module
    _size: Size
    _latents: Tensor
    _config: Any

    def _has(self, name: str) -> Any:
        return getattr(self._config, name, None)

    def shape_list(self) -> Any:
        return [[(1, self._size.height // 2, self._size.width // 2)]]

    def img_mask(self) -> Any:
        # A slot stands for four tokens of the image.
        slots = self._latents.shape[1] // 4
        return torch.arange(self._size.text + slots)[None] >= self._size.text

    def _image(self) -> int:
        return (self._size.height // 2) * (self._size.width // 2)

    def position_ids(self) -> Any:
        if self._has("time_step_dim") is not None:
            return torch.arange(self._size.text + 1 + self._image())[None]
        ids = torch.zeros(self._size.text + self._image(), 3, dtype=torch.long)
        if self._has("num_text_layers"):
            return ids
        return ids[None] if self._has("llm_features_dim") else None

    def indicator(self) -> Any:
        return torch.tensor([[3] * self._size.text + [2] * self._image()])

    def segment_ids(self) -> Any:
        return torch.ones(1, self._size.text + self._image(), dtype=torch.long)

    def prior_token_id(self) -> Any:
        return torch.zeros(1, self._image(), dtype=torch.long)

    def prior_token_drop(self) -> Any:
        return torch.zeros(1, self._image(), dtype=torch.bool)

    def attention_mask(self) -> Any:
        # A language model that denoises has one more token, of the timestep.
        count = self._size.text + 1 + self._image()
        return _empty(1, count, count) if self._has("time_step_dim") is not None else None

    def input_img_latents(self) -> Any:
        return []

    def input_image_sizes(self) -> Any:
        return {}

    def text_encoder_layers(self) -> Any:
        wide = self._has("text_encoder_dim")
        if wide is None:
            return None
        blocks = self._has("num_layers") + self._has("num_single_layers")
        return [_empty(1, self._size.text, wide) for _ in range(blocks)]

    def proj_embedding(self) -> Any:
        return _empty(1, self._has("embedding_proj_dim") or self._has("embedding_dim"))

    def timestep_ratio(self) -> Any:
        return torch.ones(1)

    def clip_text_pooled(self) -> Any:
        wide = self._has("clip_text_pooled_in_channels")
        return None if wide is None else _empty(1, 1, wide)

    def clip_text(self) -> Any:
        wide = self._has("clip_text_in_channels")
        return None if wide is None else _empty(1, self._size.text, wide)

    def clip_img(self) -> Any:
        wide = self._has("clip_image_in_channels")
        return None if wide is None else _empty(1, 1, wide)

    def effnet(self) -> Any:
        wide = self._has("effnet_in_channels")
        return None if wide is None else _empty(1, wide, self._size.height // 4, self._size.width // 4)
