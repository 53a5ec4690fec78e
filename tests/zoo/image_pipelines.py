"""Tiny pipelines of text-to-image families whose text encoder is a language model or T5."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from tests import tiny
from torch import Tensor

from .encoders import (
    WIDTH,
    gemma2,
    gemma_tokenizer,
    glm,
    glm_tokenizer,
    llama,
    llama_tokenizer,
    qwen3,
    qwen_tokenizer,
    qwen_vl,
    umt5,
    umt5_tokenizer,
)


def flux_vae() -> Any:
    """Autoencoder of the kind FLUX has."""
    return tiny.vae(shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False)


def run(pipe: Any, **arguments: Any) -> Tensor:
    """Two steps of a pipeline for "a cat" at 16 pixels from a fixed seed, as latents."""
    given = {"prompt": "a cat", "height": 16, "width": 16, "num_inference_steps": 2, **arguments}
    # Some pipelines write into the lists they are given.
    given = {name: list(value) if isinstance(value, list) else value for name, value in given.items()}
    found: Tensor = pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).images
    return found


def chroma() -> Any:
    """FLUX without its CLIP vector: text, then image; padding of the text hidden by a mask but for its
    first token."""
    torch.manual_seed(0)
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    pipe = diffusers.ChromaPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flux_vae(),
        text_encoder=tiny.t5_encoder(32),
        tokenizer=tiny.t5_tokenizer(),
    )
    return tiny._finish(pipe, transformer)


def kontext() -> Any:
    """FLUX.1 that looks at another image, whose tokens follow those of the painted one."""
    parts = tiny.tiny_flux().components
    pipe = diffusers.FluxKontextPipeline(**{**parts, "image_encoder": None, "feature_extractor": None})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture() -> Tensor:
    """An image to look at, 16 by 24 pixels."""
    return torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def flux2() -> Any:
    """FLUX.2 Klein: its prompt is a chat turn for Qwen3, whose layers are stacked."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        timestep_guidance_channels=8,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    pipe = diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    return tiny._finish(pipe, transformer)


def qwen_image() -> Any:
    """Qwen2.5-VL reads a template; its first tokens are dropped, shorter prompts are filled up with zeros and
    hidden as keys, not as queries."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False]
    )
    pipe = diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=qwen_vl(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    # The released tokenizer spells the head of the template in 34 tokens, ours in one per byte.
    pipe.prompt_template_encode = "<|im_start|>system\nDescribe:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    head = pipe.prompt_template_encode.partition("{}")[0]
    pipe.prompt_template_encode_start_idx = len(tokenizer(head).input_ids)
    return tiny._finish(pipe, transformer)


def z_image() -> Any:
    """Each row is its image, then its text, both filled up to a multiple of 32 with learned tokens."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 4, 8],
        axes_lens=[128, 32, 32],
    )
    pipe = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flux_vae(),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    return tiny._finish(pipe, transformer)


def lumina2() -> Any:
    """Each row is its text without padding, then its image; a system prompt stands before the words."""
    torch.manual_seed(0)
    tokenizer = gemma_tokenizer()
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(64, 32, 32),
        cap_feat_dim=WIDTH,
    )
    pipe = diffusers.Lumina2Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flux_vae(),
        text_encoder=gemma2(tokenizer),
        tokenizer=tokenizer,
    )
    pipe.system_prompt = "Be nice."
    return tiny._finish(pipe, transformer)


def hidream() -> Any:
    """Image, T5, the last layer of Llama and, anew in every block, another layer of Llama."""
    torch.manual_seed(0)
    tokenizer = llama_tokenizer()
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[32, WIDTH],
        text_emb_dim=32,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(8, 8),
        llama_layers=[0, 1],
    )
    pipe = diffusers.HiDreamImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=flux_vae(),
        text_encoder=tiny.clip_encoder(),
        tokenizer=tiny.clip_tokenizer(),
        text_encoder_2=tiny.clip_encoder(),
        tokenizer_2=tiny.clip_tokenizer(),
        text_encoder_3=tiny.t5_encoder(32),
        tokenizer_3=tiny.t5_tokenizer(),
        text_encoder_4=llama(tokenizer),
        tokenizer_4=tokenizer,
        transformer=transformer,
    )
    pipe.default_sample_size = 8  # sizes are scaled to this area
    return tiny._finish(pipe, transformer)


def auraflow() -> Any:
    """Eight learned registers before the text, then the image."""
    torch.manual_seed(0)
    tokenizer = umt5_tokenizer()
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=WIDTH,
        out_channels=4,
        pos_embed_max_size=64,
    )
    pipe = diffusers.AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=umt5(tokenizer),
        vae=flux_vae(),
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    return tiny._finish(pipe, transformer)


def cogview4() -> Any:
    """Text padded on the left to a multiple of 16, then the image."""
    torch.manual_seed(0)
    tokenizer = glm_tokenizer()
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=8,
        sample_size=8,
        rope_axes_dim=(8, 8),
    )
    pipe = diffusers.CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=glm(tokenizer),
        vae=flux_vae(),
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    )
    return tiny._finish(pipe, transformer)
