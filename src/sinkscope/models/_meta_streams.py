"""Inputs that only some video models take besides latents, timestep and text: a past, a face, sound.

As in `_meta_inputs`, made by parameter name; lengths are those of the released pipelines.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ._meta_inputs import Size

_CLEAN, _HISTORY = 2, {"short": 2, "mid": 2, "long": 16, "2x": 2, "4x": 16}
"""Latent frames of the past: the first and the last one as they are, others at half and a quarter of the
size."""
_PIXEL_FRAMES = 4
"""Per latent frame."""
_VIT_TOKENS = 577


class Streams:
    """One method per name of a parameter; None where the model goes without."""

    _root: nn.Module
    _size: Size
    _latents: Tensor
    _config: Any
    _parameters: Any

    def _has(self, name: str) -> Any:
        return getattr(self._config, name, None)

    # ---- what was painted before

    def _past(self, frames: int) -> Tensor:
        return torch.empty(1, self._latents.shape[1], frames, *self._latents.shape[3:], device="meta")

    def latents_clean(self) -> Any:
        return self._past(_CLEAN)

    def latents_history_2x(self) -> Any:
        return self._past(_HISTORY["2x"])

    def latents_history_4x(self) -> Any:
        return self._past(_HISTORY["4x"])

    def latents_history_short(self) -> Any:
        return self._past(_HISTORY["short"])

    def latents_history_mid(self) -> Any:
        return self._past(_HISTORY["mid"])

    def latents_history_long(self) -> Any:
        return self._past(_HISTORY["long"])

    def indices_latents(self) -> Any:
        return torch.arange(self._size.frames)

    def indices_latents_clean(self) -> Any:
        return torch.arange(_CLEAN)

    def indices_latents_history_2x(self) -> Any:
        return torch.arange(_HISTORY["2x"])

    def indices_latents_history_4x(self) -> Any:
        return torch.arange(_HISTORY["4x"])

    def indices_hidden_states(self) -> Any:
        return torch.arange(self._size.frames)[None]

    def indices_latents_history_short(self) -> Any:
        return torch.arange(_HISTORY["short"])[None]

    def indices_latents_history_mid(self) -> Any:
        return torch.arange(_HISTORY["mid"])[None]

    def indices_latents_history_long(self) -> Any:
        return torch.arange(_HISTORY["long"])[None]

    # ---- who moves, and how

    def pose_hidden_states(self) -> Any:
        channels = self._has("latent_channels")
        frames, height, width = self._latents.shape[2:]
        return (
            None if channels is None else torch.empty(1, channels, frames - 1, height, width, device="meta")
        )

    def face_pixel_values(self) -> Any:
        side = self._has("motion_encoder_size")
        frames = (self._latents.shape[2] - 2) * _PIXEL_FRAMES + 1
        return None if side is None else torch.empty(1, 3, frames, side, side, device="meta")

    def id_cond(self) -> Any:
        wide = self._has("LFE_id_dim") if self._has("is_train_face") else None
        return None if wide is None else torch.empty(1, wide, device="meta")

    def id_vit_hidden(self) -> Any:
        wide = self._has("LFE_vit_dim") if self._has("is_train_face") else None
        if wide is None:
            return None
        return [torch.empty(1, _VIT_TOKENS, wide, device="meta") for _ in range(self._has("LFE_num_scale"))]

    # ---- a picture that shall move

    def fps(self) -> Any:
        return torch.full((1,), 16) if "image_latents" in self._parameters else None

    def image_latents(self) -> Any:
        return self._latents

    def image_embeddings(self) -> Any:
        wide = self._has("cross_attention_dim")
        return torch.empty(1, 1, wide, device="meta") if isinstance(wide, int) else None

    # ---- sound, and times

    def audio_hidden_states(self) -> Any:
        wide = self._has("in_audio_dim") or self._has("audio_in_channels")
        return None if wide is None else torch.empty(1, self._heard(), wide, device="meta")

    def _heard(self) -> int:
        """Tokens of sound: a second of video is 24 frames."""
        hop, rate = self._has("audio_hop_length"), self._has("audio_sampling_rate")
        if hop is None or rate is None:  # Kandinsky 6
            frames = (self._size.frames - 1) * _PIXEL_FRAMES + 1
            return ceil(frames / 24 * 44_100 / 1024)
        frames = (self._size.frames - 1) * self._has("vae_scale_factors")[0] + 1
        return round(frames / 24 * rate / hop / self._has("audio_scale_factor"))

    def audio_num_frames(self) -> Any:
        return self._heard() if self._has("audio_in_channels") else None

    def audio_encoder_hidden_states(self) -> Any:
        wide = self._has("caption_channels")
        return None if wide is None else torch.empty(1, self._size.text, wide, device="meta")

    def r_timestep(self) -> Any:
        return torch.full((1, self._size.frames), 400.0)
