"""Denoisers of video models whose pipelines take too much to build."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from tests import tiny
from torch import Tensor


def bare(model: Any, **inputs: Any) -> Tensor:
    """One forward pass of a denoiser alone."""
    with torch.no_grad():
        return model(**inputs).sample


def _noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hunyuan_video_15(**options: Any) -> Any:
    """HunyuanVideo 1.5: video, picture and two texts, row by row those tokens first that are no padding."""
    return awake(
        "HunyuanVideo15Transformer3DModel",
        in_channels=options.pop("in_channels", 4),
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


def kandinsky5(**options: Any) -> Any:
    """Kandinsky 5: latents with their channels last; the text is refined by attention of its own."""
    return awake(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=options.pop("in_text_dim2", 8),
        time_dim=16,
        model_dim=32,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
    )


_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


def awake(kind: str, **config: Any) -> Any:
    """A denoiser of diffusers with random weights, none of them zero."""
    torch.manual_seed(0)
    denoiser = getattr(diffusers, kind)(**config)
    tiny._spread(denoiser)
    return denoiser.eval().requires_grad_(False)


def _usual() -> dict[str, Tensor]:
    return {
        "hidden_states": _noise(1, 4, 3, 4, 6),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": _noise(1, 7, 16),
    }


def run_usual(model: Any, **changes: Any) -> Tensor:
    """Three latent frames of two by three tokens, seven tokens of text."""
    return bare(model, **_usual())


def skyreels(**options: Any) -> Any:
    return awake("SkyReelsV2Transformer3DModel", **{**_WAN, **options})


def vace() -> Any:
    """Wan VACE: a block beside the stack sees the video mixed with its control."""
    return awake("WanVACETransformer3DModel", **_WAN, vace_layers=[0], vace_in_channels=20)


def run_vace(model: Any, **changes: Any) -> Tensor:
    return bare(model, **_usual(), control_hidden_states=_noise(1, 20, 3, 4, 6, seed=2))


def cosmos(**options: Any) -> Any:
    return awake(
        "CosmosTransformer3DModel",
        in_channels=options.pop("in_channels", 4),
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        text_embed_dim=options.pop("text_embed_dim", 16),
        adaln_lora_dim=4,
        max_size=(4, 8, 8),
        extra_pos_embed_type=None,
        concat_padding_mask=False,
    )


def easyanimate() -> Any:
    """EasyAnimate: joint attention, with weights of their own for the text in the first blocks only."""
    return awake(
        "EasyAnimateTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=2,
        mmdit_layers=1,
        sample_width=6,
        sample_height=4,
        patch_size=2,
    )


def ltx2() -> Any:
    """LTX-2: video and audio, each with its text, and each attending to the other."""
    return awake(
        "LTX2VideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=16,
        rope_double_precision=False,
    )
