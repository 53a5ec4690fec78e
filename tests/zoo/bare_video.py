"""Denoisers of video models whose pipelines take too much to build."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanVideo15Transformer3DModel, Kandinsky5Transformer3DModel
from tests import tiny
from torch import Tensor


def bare(model: Any, **inputs: Any) -> Tensor:
    """One forward pass of a denoiser alone."""
    with torch.no_grad():
        return model(**inputs).sample


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hunyuan_video_15() -> HunyuanVideo15Transformer3DModel:
    """HunyuanVideo 1.5: video, picture and two texts, row by row those tokens first that are no padding."""
    torch.manual_seed(0)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=16,
        image_embed_dim=8,
        rope_axes_dim=(2, 4, 4),
        target_size=16,
    )
    tiny._spread(transformer)
    return transformer.eval().requires_grad_(False)


def run_hunyuan_video_15(model: Any, **changes: Any) -> Tensor:
    """Two rows of five and seven words; the first has no text for the second encoder but one mark."""
    texts, glyphs = torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long)
    texts[0, :5] = texts[1, :7] = glyphs[0, :1] = glyphs[1, :3] = 1
    return bare(
        model,
        hidden_states=_noise(2, 4, 3, 2, 3),
        timestep=torch.full((2,), 500.0),
        encoder_hidden_states=_noise(2, 8, 16),
        encoder_attention_mask=texts,
        encoder_hidden_states_2=_noise(2, 4, 16),
        encoder_attention_mask_2=glyphs,
        image_embeds=_noise(2, 5, 8),
    )


def kandinsky5() -> Kandinsky5Transformer3DModel:
    """Kandinsky 5: latents with their channels last; the text is refined by attention of its own."""
    torch.manual_seed(0)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=8,
        time_dim=16,
        model_dim=32,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
    )
    tiny._spread(transformer)
    return transformer.eval().requires_grad_(False)


def run_kandinsky5(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        hidden_states=_noise(1, 3, 4, 6, 4),
        encoder_hidden_states=_noise(1, 7, 16),
        timestep=torch.tensor([500.0]),
        pooled_projections=_noise(1, 8),
        visual_rope_pos=[torch.arange(3), torch.arange(2), torch.arange(3)],
        text_rope_pos=torch.arange(7),
    )
