"""Video models that attend within frames and over time by turns, and audio."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLTemporalDecoder,
    AutoencoderOobleck,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    MotionAdapter,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from PIL import Image
from tests import tiny
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from .specimen import Specimen


def run(pipe: Any, **changes: Any) -> Any:
    """Two steps of a tiny pipeline."""
    given = {"prompt": "a cat", "num_inference_steps": 2, "output_type": "latent", **changes}
    return pipe(generator=torch.Generator().manual_seed(0), **given)


def latte() -> LattePipeline:
    """Latte: a block within frames, a block over time, and so on."""
    torch.manual_seed(0)
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=32,
        video_length=3,
    )
    pipe = LattePipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=tiny.t5_encoder(),
        vae=tiny.vae(),
        transformer=transformer,
        scheduler=DDIMScheduler(),
    )
    return tiny._finish(pipe, transformer)


def run_latte(pipe: Any, **changes: Any) -> Tensor:
    given = {"height": 16, "width": 16, "video_length": 3, "clean_caption": False, "mask_feature": False}
    return run(pipe, **{**given, **changes}).frames


def animatediff() -> AnimateDiffPipeline:
    """AnimateDiff: the UNet of Stable Diffusion with motion modules, whose "attn2" is over time as well."""
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        motion_max_seq_length=8,
    )
    pipe = AnimateDiffPipeline(
        vae=tiny.vae(),
        text_encoder=tiny.clip_encoder(CLIPTextModel),
        tokenizer=tiny.clip_tokenizer(),
        unet=tiny._unet(cross_attention_dim=16, attention_head_dim=2),
        motion_adapter=adapter,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    )
    return tiny._finish(pipe, pipe.unet)


def run_animatediff(pipe: Any, **changes: Any) -> Tensor:
    return run(pipe, **{"height": 8, "width": 8, "num_frames": 3, **changes}).frames


def svd() -> StableVideoDiffusionPipeline:
    """Stable Video Diffusion: a picture moves; cross-attention sees one token, its features."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 32),
        layers_per_block=1,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        cross_attention_dim=8,
        num_attention_heads=2,
        num_frames=3,
    )
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
    )
    pipe = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=CLIPVisionModelWithProjection(vision),
        unet=unet,
        scheduler=EulerDiscreteScheduler(use_karras_sigmas=True, prediction_type="v_prediction"),
        feature_extractor=CLIPImageProcessor(),
    )
    return tiny._finish(pipe, unet)


def run_svd(pipe: Any, **changes: Any) -> Tensor:
    given = {"image": _RED, "num_inference_steps": 2, "height": 8, "width": 8, "num_frames": 3, **changes}
    return pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).frames


def stable_audio() -> StableAudioPipeline:
    """Stable Audio: one token for the duration before the audio; keys shared by two heads are repeated."""
    torch.manual_seed(0)
    transformer = StableAudioDiTModel(
        sample_size=6,
        in_channels=3,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=3,
        cross_attention_dim=16,
        time_proj_dim=8,
        global_states_input_dim=32,
        cross_attention_input_dim=16,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[1, 2],
        channel_multiples=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        sampling_rate=4,
    )
    tokenizer = tiny.t5_tokenizer()
    tokenizer.model_max_length = tiny.T5_TEXT
    pipe = StableAudioPipeline(
        vae=vae,
        text_encoder=tiny.t5_encoder(),
        projection_model=StableAudioProjectionModel(32, 16, 0, 32),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", sigma_data=1.0),
    )
    return tiny._finish(pipe, transformer)


def run_audio(pipe: Any, **changes: Any) -> Tensor:
    return run(pipe, **changes).audios


_T5 = (("content", 6), ("eos", 1))
_RED, _BLUE = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
_OFF = {"guidance_scale": 1.0, "prompt": ["a cat", "an owl"]}

MOTION: tuple[Specimen, ...] = (
    Specimen(
        name="latte",
        title="Latte",
        group="video",
        build=latte,
        run=run_latte,
        guidance="one batch",
        segments=("video", "text"),
        words="acat",
        roles=(*_T5, ("pad", 120 - 7)),
        off=_OFF,
    ),
    Specimen(
        name="animatediff",
        title="AnimateDiff",
        group="video",
        build=animatediff,
        run=run_animatediff,
        guidance="one batch",
        segments=("video", "text"),
        words="acat",
        roles=(("bos", 1), ("content", 4), ("eos", 1), ("pad", tiny.TEXT - 6)),
        off=_OFF,
        schedulers=("euler",),
    ),
    Specimen(
        name="svd",
        title="Stable Video Diffusion",
        group="video",
        build=svd,
        run=run_svd,
        guidance="one batch",
        segments=("video", "image"),
        names={"text": "image"},
        two={"image": [_RED, _BLUE]},
        other={"image": _BLUE},
        off={"image": [_RED, _BLUE], "max_guidance_scale": 1.0},
    ),
    Specimen(
        name="stable_audio",
        title="Stable Audio",
        group="audio",
        build=stable_audio,
        run=run_audio,
        guidance="one batch",
        segments=("global", "audio", "text", "duration"),
        words="acat",
        roles=(*_T5, ("pad", tiny.T5_TEXT - 7)),
        names={"image": "audio", "global_hidden_states": "global"},
        finer={"duration": "text"},
        off={"guidance_scale": 1.0, "num_waveforms_per_prompt": 2},
    ),
)
