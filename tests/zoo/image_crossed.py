"""Tiny image pipelines whose image tokens look at the condition in attention of their own, or have none."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    KandinskyV22Pipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    UNet2DConditionModel,
    VQModel,
)
from tests import tiny
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizer

from .encoders import WIDTH, gemma2, gemma_tokenizer


def pixart_alpha() -> PixArtAlphaPipeline:
    """T5 with a padding mask in cross-attention."""
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        attention_bias=True,
        use_additional_conditions=False,
    )
    pipe = PixArtAlphaPipeline(
        transformer=transformer,
        scheduler=DDIMScheduler(),
        vae=tiny.vae(),
        text_encoder=tiny.t5_encoder(32),
        tokenizer=tiny.t5_tokenizer(),
    )
    return tiny._finish(pipe, transformer)


def bert_tokenizer() -> BertTokenizer:
    """Chinese BERT's marks, one token per letter."""
    letters = [*tiny._CHARACTERS, *(f"##{letter}" for letter in tiny._CHARACTERS)]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if not tiny.OLDER:
        return BertTokenizer(vocab={piece: index for index, piece in enumerate([*marks, *letters])})
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder, "vocab.txt")
        words.write_text("\n".join([*marks, *letters]), encoding="utf-8")
        return BertTokenizer(str(words))


def hunyuan_dit() -> HunyuanDiTPipeline:
    """CLIP (a BERT) and T5 one behind the other, their padding replaced by learned vectors; T5 is pooled by
    attention as well."""
    torch.manual_seed(0)
    tokenizer = bert_tokenizer()
    transformer = HunyuanDiT2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        hidden_size=16,
        cross_attention_dim=16,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        text_len=77,
        text_len_t5=256,
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=77,
    )
    pipe = HunyuanDiTPipeline(
        transformer=transformer,
        vae=tiny.vae(),
        scheduler=DDIMScheduler(),
        text_encoder=BertModel(config),
        tokenizer=tokenizer,
        text_encoder_2=tiny.t5_encoder(32),
        tokenizer_2=tiny.t5_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return tiny._finish(pipe, transformer)


def sana() -> SanaPipeline:
    """Linear attention among image tokens, softmax attention to Gemma; an instruction stands before the
    prompt, of which the begin mark and the last tokens remain."""
    torch.manual_seed(0)
    tokenizer = gemma_tokenizer()
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=WIDTH,
        sample_size=8,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    pipe = SanaPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=gemma2(tokenizer),
        tokenizer=tokenizer,
    )
    return tiny._finish(pipe, transformer)


def dit() -> DiTPipeline:
    """Classes instead of texts; the guided half of the batch comes first."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
    )
    pipe = DiTPipeline(
        transformer=transformer, vae=tiny.vae(), scheduler=DDIMScheduler(), id2label={0: "cat", 1: "owl"}
    )
    return tiny._finish(pipe, transformer)


def run_dit(pipe: DiTPipeline, **changes: Any) -> Tensor:
    """Two steps for one class, as an image."""
    given = {"class_labels": [3], "num_inference_steps": 2, **changes}
    found = pipe(generator=torch.Generator().manual_seed(0), output_type="pt", **given).images
    return torch.as_tensor(found)  # older versions of diffusers give an array


def kandinsky22() -> KandinskyV22Pipeline:
    """The decoder: image tokens attend to ten tokens made of a CLIP image embedding, and to themselves."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(8, 16),
        layers_per_block=1,
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
    )
    movq = VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("AttnUpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=8,
        norm_num_groups=4,
        norm_type="spatial",
        vq_embed_dim=4,
    )
    return tiny._finish(KandinskyV22Pipeline(unet=unet, scheduler=DDIMScheduler(), movq=movq), unet)


def embedding(*seeds: int) -> Tensor:
    """Image embeddings, one per seed."""
    return torch.stack([torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def run_kandinsky(pipe: KandinskyV22Pipeline, **changes: Any) -> Tensor:
    """Two steps for one image embedding, as latents."""
    given = {"image_embeds": embedding(1), "height": 16, "width": 16, "num_inference_steps": 2, **changes}
    given["negative_image_embeds"] = torch.zeros_like(given["image_embeds"])
    found: Tensor = pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).images
    return found
