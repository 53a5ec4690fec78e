"""Whole pipelines with random weights that run in a fraction of a second: tokenizers, text encoders,
denoiser, autoencoder.

Nothing is downloaded; `pipe.save_pretrained(folder)` writes a folder any diffusers user could load. Weights
and inputs depend on the seed only. Keep prompts short: the tokenizers know single characters.

    pipe = tiny_sd3()
    image = run(pipe)                # PIL images, two steps
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tests import older
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

TEXT = 14
"""Positions of a CLIP sequence (77 in the released models)."""
T5_TEXT = 12
"""Positions asked of T5 (256 to 512 in the released models)."""

OLDER = transformers.__version__.startswith("4.")
"""Transformers 4 makes tokenizers of files only."""
_CHARACTERS = string.ascii_lowercase + string.digits + ".,!-'"


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """Character-level CLIP tokenizer. CLIP-L pads with its end mark, CLIP-G with "!"."""
    pieces = ["!", *(c for c in _CHARACTERS if c != "!"), *(f"{c}</w>" for c in _CHARACTERS)]
    vocab = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    options = {"pad_token": pad_token, "model_max_length": TEXT}
    if OLDER:
        return older.clip_tokenizer(vocab, **options)
    return CLIPTokenizer(vocab=vocab, merges=[], **options)


def t5_tokenizer() -> T5TokenizerFast:
    """Character-level T5 tokenizer: no begin mark, `</s>` at the end, `<pad>` behind it."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(c, -3.0) for c in _CHARACTERS + string.ascii_uppercase]
    if OLDER:
        return older.t5_tokenizer(special + letters, model_max_length=64)
    return T5TokenizerFast(vocab=special + letters, extra_ids=0, model_max_length=64)


def clip_encoder(kind: type = CLIPTextModelWithProjection, width: int = 16) -> Any:
    """CLIP text encoder that fits `clip_tokenizer`."""
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def t5_encoder(width: int = 32) -> T5EncoderModel:
    """T5 encoder that fits `t5_tokenizer`."""
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        is_gated_act=True,
    )
    return T5EncoderModel(config)


def vae(channels: int = 4, **options: Any) -> AutoencoderKL:
    """Autoencoder with a factor of 2."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def _spread(module: torch.nn.Module) -> None:
    """Wake up what is initialised to zero (modulations, last layers), or every model would paint the same."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)


def _finish(pipe: Any, denoiser: torch.nn.Module) -> Any:
    _spread(denoiser)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sd3(seed: int, **options: Any) -> StableDiffusion3Pipeline:
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=options.pop("num_layers", 3),
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=8,
        **options,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(),
        tokenizer_2=clip_tokenizer("!"),
        text_encoder_3=t5_encoder(32),
        tokenizer_3=t5_tokenizer(),
    )
    return _finish(pipe, transformer)


def tiny_sd3(seed: int = 0) -> StableDiffusion3Pipeline:
    """SD3: joint attention, image before text, CLIP-L and CLIP-G on the same positions, then T5."""
    return _sd3(seed)


def tiny_sd35(seed: int = 0) -> StableDiffusion3Pipeline:
    """SD3.5-medium: QK-norm and a second, image-only attention in the first two blocks."""
    return _sd3(seed, dual_attention_layers=(0, 1), qk_norm="rms_norm")


def tiny_flux(seed: int = 0) -> FluxPipeline:
    """FLUX.1: two double and two single blocks, text before image, T5 only in the sequence."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=False,
    )
    pipe = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.0, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_encoder(CLIPTextModel),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(32),
        tokenizer_2=t5_tokenizer(),
    )
    return _finish(pipe, transformer)


def _unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        **options,
    )


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """SDXL: UNet with two transformer blocks per attention block, CLIP-L and CLIP-G on the same positions."""
    torch.manual_seed(seed)
    unet = _unet(
        attention_head_dim=(2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=64,
        cross_attention_dim=32,
    )
    pipe = StableDiffusionXLPipeline(
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        vae=vae(),
        text_encoder=clip_encoder(CLIPTextModel),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(),
        tokenizer_2=clip_tokenizer("!"),
        add_watermarker=False,
    )
    return _finish(pipe, unet)


def tiny_sd15(seed: int = 0) -> StableDiffusionPipeline:
    """SD1.5: UNet, one CLIP encoder, DDIM."""
    torch.manual_seed(seed)
    unet = _unet(cross_attention_dim=16, attention_head_dim=2)
    pipe = StableDiffusionPipeline(
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        vae=vae(),
        text_encoder=clip_encoder(CLIPTextModel),
        tokenizer=clip_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _finish(pipe, unet)


def tiny_pixart(seed: int = 0) -> PixArtSigmaPipeline:
    """PixArt-Sigma: self and cross attention per block, T5 with a padding mask."""
    torch.manual_seed(seed)
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
    pipe = PixArtSigmaPipeline(
        transformer=transformer,
        scheduler=EulerDiscreteScheduler(),
        vae=vae(),
        text_encoder=t5_encoder(32),
        tokenizer=t5_tokenizer(),
    )
    return _finish(pipe, transformer)


FAMILIES: dict[str, Callable[..., Any]] = {
    "sd3": tiny_sd3,
    "sd35": tiny_sd35,
    "flux": tiny_flux,
    "sdxl": tiny_sdxl,
    "sd15": tiny_sd15,
    "pixart": tiny_pixart,
}


def call_arguments(pipe: Any, **changes: Any) -> dict[str, Any]:
    """Arguments of a two-step call that fit a tiny pipeline."""
    arguments: dict[str, Any] = {
        "prompt": "a cat",
        "height": 16,
        "width": 16,
        "num_inference_steps": 2,
        "output_type": "pil",
    }
    if not isinstance(pipe, (StableDiffusionPipeline, StableDiffusionXLPipeline)):
        arguments["max_sequence_length"] = T5_TEXT
    if isinstance(pipe, PixArtSigmaPipeline):
        arguments.update(use_resolution_binning=False, clean_caption=False)
    return {**arguments, **changes}


def run(pipe: Any, seed: int = 0, **changes: Any) -> Any:
    """Two steps of a pipeline from a fixed seed; PIL images, or latents with `output_type="latent"`."""
    return pipe(generator=torch.Generator().manual_seed(seed), **call_arguments(pipe, **changes)).images
