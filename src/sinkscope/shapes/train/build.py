"""The embedded model's parts, freshly initialised: Stable Diffusion 3's architecture at 1/500 of its size."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from sinkscope.shapes.train.tokenizers import CLIP_LENGTH, T5_LENGTH, clip_tokenizer, t5_tokenizer


@dataclass(frozen=True)
class Size:
    """Sizes of the denoiser and its text encoders."""

    layers: int = 6
    heads: int = 4
    head_dim: int = 32
    clip_width: int = 64
    joint_width: int = 128

    def to_dict(self) -> dict[str, int]:
        """Return the sizes by name."""
        return asdict(self)


class Conditioner(nn.Module):
    """Two CLIP text encoders and a T5 encoder, combined as `StableDiffusion3Pipeline.encode_prompt` does."""

    def __init__(self, size: Size, clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
        super().__init__()
        self.size = size
        self.clip_l = CLIPTextModelWithProjection(_clip_config(size, clip, pad=clip.pad_token_id))
        self.clip_g = CLIPTextModelWithProjection(_clip_config(size, clip, pad=0))
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(t5),
                d_model=size.joint_width,
                d_kv=32,
                d_ff=2 * size.joint_width,
                num_layers=2,
                num_heads=4,
                relative_attention_num_buckets=32,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
                is_encoder_decoder=False,
                use_cache=False,
            )
        )

    def forward(self, ids_l: Tensor, ids_g: Tensor, ids_t5: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [row, position] to text states [row, position, joint] and pooled [row, 2 clip]."""
        left = self.clip_l(ids_l, output_hidden_states=True)
        right = self.clip_g(ids_g, output_hidden_states=True)
        clip = torch.cat([left.hidden_states[-2], right.hidden_states[-2]], dim=-1)
        clip = nn.functional.pad(clip, (0, self.size.joint_width - clip.shape[-1]))
        states = torch.cat([clip, self.t5(ids_t5)[0]], dim=1)
        return states, torch.cat([left.text_embeds, right.text_embeds], dim=-1)


def _clip_config(size: Size, tokenizer: CLIPTokenizer, pad: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.clip_width,
        intermediate_size=2 * size.clip_width,
        projection_dim=size.clip_width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
    )


def build_transformer(size: Size, latent_channels: int = 4) -> SD3Transformer2DModel:
    """Return the denoiser: patch 2 on 16 x 16 latents, so 64 image tokens beside the text tokens."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=size.layers,
        attention_head_dim=size.head_dim,
        num_attention_heads=size.heads,
        joint_attention_dim=size.joint_width,
        caption_projection_dim=size.heads * size.head_dim,
        pooled_projection_dim=2 * size.clip_width,
        pos_embed_max_size=16,
    )


def assemble(
    transformer: SD3Transformer2DModel, conditioner: Conditioner, vae: AutoencoderKL
) -> StableDiffusion3Pipeline:
    """Put the parts into a `StableDiffusion3Pipeline` that `save_pretrained` writes as a plain SD3 folder."""
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        # SD3's own shift: more of the few steps at high noise, where the layout is decided.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=conditioner.clip_l.eval(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=conditioner.clip_g.eval(),
        tokenizer_2=clip_tokenizer(pad="!"),
        text_encoder_3=conditioner.t5.eval(),
        tokenizer_3=t5_tokenizer(),
    )


def token_ids(texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokenize as the pipeline does; int64 [row, CLIP_LENGTH] twice and [row, T5_LENGTH]."""
    tokenizers = (clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer())
    lengths = (CLIP_LENGTH, CLIP_LENGTH, T5_LENGTH)
    ids = [
        tokenizer(texts, padding="max_length", max_length=n, truncation=True, return_tensors="pt").input_ids
        for tokenizer, n in zip(tokenizers, lengths, strict=True)
    ]
    return ids[0], ids[1], ids[2]
