"""Audio models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .bare_video import _noise, awake, bare
from .recent_video import alone
from .specimen import Specimen

_PADDED = torch.tensor([[1] * 5 + [0] * 2])
_NOW = torch.tensor([0.5])


def ace_step() -> Any:
    """ACE-Step: keys shared by two heads, every other layer looks at near tokens only."""
    return awake(
        "AceStepTransformer1DModel",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        in_channels=12,
        audio_acoustic_hidden_dim=4,
        sliding_window=2,
    )


def run_ace_step(model: Any, **changes: Any) -> Tensor:
    """Eleven latents in six tokens."""
    return bare(
        model,
        hidden_states=_noise(1, 11, 4),
        timestep=_NOW,
        timestep_r=_NOW,
        encoder_hidden_states=_noise(1, 7, 16),
        context_latents=_noise(1, 11, 8, seed=2),
    )


def longcat_audio() -> Any:
    """LongCat AudioDiT: the text is convolved first, with zeros in the place of its padding."""
    return awake(
        "LongCatAudioDiTTransformer", dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=16, latent_dim=4
    )


def run_longcat_audio(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        hidden_states=_noise(1, 6, 4),
        encoder_hidden_states=_noise(1, 7, 16),
        encoder_attention_mask=_PADDED.bool(),
        timestep=_NOW,
        attention_mask=torch.ones(1, 6, dtype=torch.bool),
        latent_cond=_noise(1, 6, 4, seed=2),
    )


def minimax_music() -> Any:
    """MiniMax Music 3: a token for the timestep before the audio, the condition in its channels."""
    return awake(
        "MiniMaxMusic3Transformer1DModel",
        in_channels=4,
        condition_dim=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        ff_inner_dim=16,
        rotary_dim=4,
        fourier_embedding_dim=8,
    )


def run_minimax_music(model: Any, **changes: Any) -> Tensor:
    return bare(
        model, hidden_states=_noise(1, 4, 6), timestep=_NOW, encoder_hidden_states=_noise(1, 6, 8, seed=2)
    )


def audioldm2_unet(**options: Any) -> Any:
    """AudioLDM 2: three transformers in turn, without a condition, with the language model's, with T5's."""
    return awake(
        "AudioLDM2UNet2DConditionModel",
        **{
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "cross_attention_dim": ((None, 8, 16),) * 2,
            "sample_size": 8,
            "attention_head_dim": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            **options,
        },
    )


def run_audioldm2_unet(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        sample=_noise(1, 4, 8, 4),
        timestep=torch.tensor([500.0]),
        encoder_hidden_states=_noise(1, 8, 8),
        encoder_hidden_states_1=_noise(1, 7, 16, seed=3),
        encoder_attention_mask_1=_PADDED,
    )


def _known(name: str, title: str, build: Any, play: Any, needs: str | None, **facts: Any) -> Specimen:
    return alone(name, title, build, play, needs, **{"group": "audio", **facts})


AUDIO: tuple[Specimen, ...] = (
    _known(
        "ace_step",
        "ACE-Step 1.5",
        ace_step,
        run_ace_step,
        "AceStepTransformer1DModel",
        segments=("audio", "condition"),
        names={"text": "condition"},
        mixed=True,
    ),
    _known(
        "longcat_audio",
        "LongCat AudioDiT",
        longcat_audio,
        run_longcat_audio,
        "LongCatAudioDiTTransformer",
        segments=("audio", "text", "padding"),
        mixed=True,
    ),
    _known(
        "minimax_music",
        "MiniMax Music 3",
        minimax_music,
        run_minimax_music,
        "MiniMaxMusic3Transformer1DModel",
        segments=("global", "audio"),
        names={"register": "global"},
        mixed=True,
    ),
    _known(
        "audioldm2_unet",
        "AudioLDM 2 (UNet)",
        audioldm2_unet,
        run_audioldm2_unet,
        None,
        segments=("audio", "generated", "text"),
        names={"image": "audio", "text": "generated", "encoder_hidden_states_1": "text"},
    ),
)
