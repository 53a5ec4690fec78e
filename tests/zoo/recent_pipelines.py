"""Whole pipelines of video models that diffusers has had since 0.35, and of the first text-to-video UNet."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import diffusers
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
)
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from tests import tiny
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from . import bare_video, encoders, recent_video
from .specimen import Specimen
from .video import FRAMES, T5_ROLES, _wan_parts, llama_parts, run, run_hunyuan_video, run_wan

_OFF = {"guidance_scale": 1.0, "prompt": ["a cat", "an owl"]}
_SEPARATE: dict[str, Any] = {"guidance": "separate calls", "order": ("cond", "uncond")}


def text_to_video() -> TextToVideoSDPipeline:
    """ModelScope's text-to-video: a block within frames, one over time, and so on."""
    torch.manual_seed(0)
    unet = UNet3DConditionModel(**recent_video.UNET3D)
    pipe = TextToVideoSDPipeline(
        vae=tiny.vae(),
        text_encoder=tiny.clip_encoder(CLIPTextModel),
        tokenizer=tiny.clip_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    )
    return tiny._finish(pipe, unet)


def run_text_to_video(pipe: Any, **changes: Any) -> Tensor:
    given = {
        "prompt": "a cat",
        "num_inference_steps": 2,
        "height": 16,
        "width": 16,
        "num_frames": 3,
        **changes,
    }
    return pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).frames


def wan_animate() -> Any:
    """Wan Animate: who shall move from a picture, how from two videos."""
    torch.manual_seed(0)
    transformer = recent_video.wan_animate(in_channels=36, latent_channels=16, out_channels=16, text_dim=32)
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    torch.manual_seed(0)
    pipe = diffusers.WanAnimatePipeline(
        transformer=transformer,
        image_processor=CLIPImageProcessor(size=8, crop_size=8),
        image_encoder=CLIPVisionModel(vision),
        **_wan_parts(),
    )
    return tiny._finish(pipe, transformer)


def run_wan_animate(pipe: Any, **changes: Any) -> Tensor:
    """One segment of nine frames. The transformer takes it for granted that the text has 512 tokens."""
    given = {
        "image": Image.new("RGB", (48, 32), (200, 60, 20)),
        "pose_video": [Image.new("RGB", (48, 32), (20 * i, 90, 50)) for i in range(9)],
        "face_video": [Image.new("RGB", (16, 16), (50, 25 * i, 90)) for i in range(9)],
        "segment_frame_length": 9,
        "guidance_scale": 5.0,
        "max_sequence_length": 512,
        "prompt": "a cat",
        "num_inference_steps": 2,
        "height": 32,
        "width": 48,
        **changes,
    }
    with mock.patch("diffusers.pipelines.wan.pipeline_wan_animate.prompt_clean", str):
        return pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).frames


def skyreels() -> Any:
    """SkyReels V2 with diffusion forcing: each latent frame is stepped by a scheduler of its own, a copy."""
    torch.manual_seed(0)
    transformer = bare_video.skyreels(in_channels=16, out_channels=16, text_dim=32)
    torch.manual_seed(0)
    pipe = diffusers.SkyReelsV2DiffusionForcingPipeline(transformer=transformer, **_wan_parts())
    return tiny._finish(pipe, transformer)


def helios() -> Any:
    """Helios: the first window, whose past is zeros."""
    torch.manual_seed(0)
    transformer = recent_video.helios(in_channels=16, out_channels=16, text_dim=32)
    torch.manual_seed(0)
    scheduler = diffusers.HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)
    pipe = diffusers.HeliosPipeline(transformer=transformer, **{**_wan_parts(), "scheduler": scheduler})
    return tiny._finish(pipe, transformer)


def hunyuan_video_15() -> Any:
    """HunyuanVideo 1.5: guidance is a part of the pipeline's own; the text has 1,000 places in a release."""
    torch.manual_seed(0)
    transformer = bare_video.hunyuan_video_15(in_channels=9)
    torch.manual_seed(0)
    tokenizer, glyphs = encoders.qwen_tokenizer(), encoders.umt5_tokenizer()
    pipe = diffusers.HunyuanVideo15Pipeline(
        text_encoder=encoders.qwen_vl(tokenizer).model.language_model,
        tokenizer=tokenizer,
        transformer=transformer,
        vae=diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8, 8),
            layers_per_block=1,
            spatial_compression_ratio=16,
            temporal_compression_ratio=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder_2=encoders.umt5(glyphs),
        tokenizer_2=glyphs,
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    )
    pipe.system_message = "Tell."
    head = "<|im_start|>system\nTell.<|im_end|>\n<|im_start|>user\n"
    pipe.prompt_template_encode_start_idx = len(tokenizer(head).input_ids)
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length, pipe.vision_num_semantic_tokens = 40, 10, 5
    return tiny._finish(pipe, transformer)


def run_hunyuan_video_15(pipe: Any, **changes: Any) -> Tensor:
    given = {
        "prompt": 'a cat "hi"',
        "num_inference_steps": 2,
        "height": 32,
        "width": 48,
        "num_frames": 9,
        **changes,
    }
    return pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).frames


def _hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


def framepack() -> Any:
    """FramePack: the window that is painted first, whose past is a picture and zeros."""
    torch.manual_seed(0)
    transformer = recent_video.framepack()
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    pipe = diffusers.HunyuanVideoFramepackPipeline(
        transformer=transformer,
        vae=_hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        image_encoder=SiglipVisionModel(vision),
        feature_extractor=SiglipImageProcessor(size={"height": 8, "width": 8}),
        **llama_parts(),
    )
    return tiny._finish(pipe, transformer)


_RED, _BLUE = (Image.new("RGB", (48, 32), color) for color in ((200, 60, 20), (20, 60, 200)))


def run_framepack(pipe: Any, **changes: Any) -> Tensor:
    """A window of three latent frames."""
    given = {
        "image": _RED,
        "latent_window_size": 3,
        **changes,
    }
    return torch.cat(run_hunyuan_video(pipe, **given))


class Processor:
    """Stands in for a processor of texts and pictures: its tokenizer is inside."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, *, text: Any, images: Any = None, videos: Any = None, **options: Any) -> Any:
        return self.tokenizer(text, **options)

    def decode(self, *args: Any, **options: Any) -> str:
        return str(self.tokenizer.decode(*args, **options))


def kandinsky5() -> Any:
    """Kandinsky 5: Qwen's tokens, CLIP's pooled text."""
    torch.manual_seed(0)
    transformer = bare_video.kandinsky5(in_text_dim2=16)
    torch.manual_seed(0)
    tokenizer = encoders.qwen_tokenizer()
    clip = tiny.clip_encoder(CLIPTextModel).config
    clip.max_position_embeddings = 77
    pipe = diffusers.Kandinsky5T2VPipeline(
        transformer=transformer,
        vae=_hunyuan_vae(),
        text_encoder=encoders.qwen_vl(tokenizer),
        tokenizer=Processor(tokenizer),
        text_encoder_2=CLIPTextModel(clip),
        tokenizer_2=tiny.clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    head = "<|im_start|>system\nTell.<|im_end|>\n<|im_start|>user\n"
    pipe.prompt_template = head + "{}<|im_end|>"
    pipe.prompt_template_encode_start_idx = len(tokenizer(head).input_ids)
    return tiny._finish(pipe, transformer)


def run_kandinsky5(pipe: Any, **changes: Any) -> Tensor:
    with mock.patch("diffusers.pipelines.kandinsky5.pipeline_kandinsky.prompt_clean", str):
        return run(pipe, **{"negative_prompt": "a dog", **changes})


class Unchecked(torch.nn.Module):
    """In the place of the safety checker, which is a package of its own."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, text: str) -> bool:
        return True


def cosmos() -> Any:
    torch.manual_seed(0)
    transformer = bare_video.cosmos(text_embed_dim=32)
    torch.manual_seed(0)
    pipe = diffusers.CosmosTextToWorldPipeline(
        text_encoder=tiny.t5_encoder(),
        tokenizer=tiny.t5_tokenizer(),
        transformer=transformer,
        vae=None,
        scheduler=diffusers.EDMEulerScheduler(),
        safety_checker=Unchecked(),
    )
    return tiny._finish(pipe, transformer)


class Scales(torch.nn.Module):
    """In the place of an autoencoder of LTX-2: how it packs and scales latents is all that a run asks for."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, channels: int, config: dict[str, Any], **ratios: int) -> None:
        super().__init__()
        self.latents_mean, self.latents_std = torch.zeros(channels), torch.ones(channels)
        self.config = FrozenDict(config)
        for name, ratio in ratios.items():
            setattr(self, f"{name}_compression_ratio", ratio)


def kandinsky6() -> Any:
    """Kandinsky 6: sound is stepped by a copy of the scheduler."""
    torch.manual_seed(0)
    transformer = recent_video.kandinsky6(in_text_dim2=16)
    torch.manual_seed(0)
    tokenizer = encoders.qwen_tokenizer()
    clip = tiny.clip_encoder(CLIPTextModel).config
    clip.max_position_embeddings = 77
    pipe = diffusers.Kandinsky6TI2VAPipeline(
        transformer=transformer,
        vae=_hunyuan_vae(),
        text_encoder=encoders.qwen_vl(tokenizer),
        tokenizer=Processor(tokenizer),
        text_encoder_2=CLIPTextModel(clip),
        tokenizer_2=tiny.clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    # They would make a wave of the latents, which no test asks for.
    pipe.register_modules(audio_vae=Unchecked(), vocoder=Unchecked())
    return tiny._finish(pipe, transformer)


def run_kandinsky6(pipe: Any, **changes: Any) -> Tensor:
    """Both results as one."""
    given = {
        "prompt": "a cat",
        "num_inference_steps": 2,
        "max_sequence_length": tiny.T5_TEXT,
        **FRAMES,
        **changes,
    }
    start = len(pipe.tokenizer.tokenizer("<|im_start|>system\nTell.<|im_end|>\n<|im_start|>user\n").input_ids)
    module = "diffusers.pipelines.kandinsky6.pipeline_kandinsky6_ti2va"
    head = "<|im_start|>system\nTell.<|im_end|>\n<|im_start|>user\n{}<|im_end|>"
    with (
        mock.patch(f"{module}._PROMPT_TEMPLATE", head),
        mock.patch(f"{module}._QWEN_CROP_START", start),
    ):
        video, audio = pipe(
            generator=torch.Generator().manual_seed(0), output_type="latent", return_dict=False, **given
        )
    return torch.cat([video.flatten(), audio.flatten()])


def ltx2() -> Any:
    """LTX-2: connectors put the words first and registers in the place of padding."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    torch.manual_seed(0)
    transformer = bare_video.ltx2()
    torch.manual_seed(0)
    tokenizer = encoders.gemma_tokenizer()
    ratios = {"spatial": 32, "temporal": 8}
    sound = {"sample_rate": 16000, "mel_hop_length": 160, "mel_bins": 8, "latent_channels": 2}
    pipe = diffusers.LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=Scales(
            4, {"scaling_factor": 1.0, "scale_factor_spatial": 32, "scale_factor_temporal": 8}, **ratios
        ),
        audio_vae=Scales(4, sound, mel=4, temporal=4),
        text_encoder=encoders.gemma2(tokenizer),
        tokenizer=tokenizer,
        connectors=LTX2TextConnectors(
            caption_channels=encoders.WIDTH,
            text_proj_in_factor=3,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=8,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=4,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=4,
            rope_double_precision=False,
        ),
        transformer=transformer,
        vocoder=None,
    )
    return tiny._finish(pipe, transformer)


def run_ltx2(pipe: Any, **changes: Any) -> Tensor:
    """Both results as one."""
    given = {
        "prompt": "a cat",
        "num_inference_steps": 2,
        "max_sequence_length": tiny.T5_TEXT,
        "height": 64,
        "width": 96,
        "num_frames": 17,
        # Guidance of other kinds would make further forward passes.
        **{"stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0},
        **changes,
    }
    video, audio = pipe(
        generator=torch.Generator().manual_seed(0), output_type="latent", return_dict=False, **given
    )
    return torch.cat([video.flatten(), audio.flatten()])


def _whole(name: str, title: str, build: Any, play: Any, needs: str | None = None, **facts: Any) -> Specimen:
    usual = {
        "group": "video",
        "guidance": "one batch",
        "segments": ("video", "text"),
        "words": "acat",
        "roles": T5_ROLES,
        "off": _OFF,
        "needs": () if needs is None else (needs,),
    }
    return Specimen(name=name, title=title, build=build, run=play, **{**usual, **facts})


RECENT_PIPELINES: tuple[Specimen, ...] = (
    _whole(
        "text_to_video",
        "ModelScope text-to-video",
        text_to_video,
        run_text_to_video,
        roles=(("bos", 1), ("content", 4), ("eos", 1), ("pad", tiny.TEXT - 6)),
    ),
    _whole(
        "wan_animate",
        "Wan Animate",
        wan_animate,
        run_wan_animate,
        "WanAnimatePipeline",
        segments=("video", "image", "text", "face", "register", "padding"),
        names={"encoder_hidden_states_image": "image", "face_pixel_values": "face"},
        mixed=True,
        roles=(*T5_ROLES[:2], ("pad", 512 - 7)),
        **_SEPARATE,
    ),
    _whole("skyreels", "SkyReels V2", skyreels, run_wan, "SkyReelsV2DiffusionForcingPipeline", **_SEPARATE),
    _whole(
        "helios",
        "Helios",
        helios,
        functools.partial(run_wan, num_latent_frames_per_chunk=3, num_frames=9),
        "HeliosPipeline",
        segments=("history", "video", "text"),
        names={f"latents_history_{age}": "history" for age in ("short", "mid", "long")},
        **_SEPARATE,
    ),
    _whole(
        "framepack",
        "FramePack",
        framepack,
        run_framepack,
        guidance="distilled",
        segments=("history", "video", "image", "text", "padding"),
        names={
            "latents_clean": "history",
            **{f"latents_history_{scale}": "history" for scale in ("2x", "4x")},
            "image_embeds": "image",
        },
        finer={"padding": "text"},
        roles=(("content", 5), ("eos", 1)),
        two={"prompt": ["a cat", "an owl"], "image": [_RED, _BLUE]},
        off={"prompt": ["a cat", "an owl"], "image": [_RED, _BLUE]},
    ),
    _whole(
        "hunyuan_video_15",
        "HunyuanVideo 1.5",
        hunyuan_video_15,
        run_hunyuan_video_15,
        "HunyuanVideo15Pipeline",
        segments=("video", "text", "padding"),
        # Zeros stand for no picture, and any others would put one before the text.
        probed=False,
        words=None,
        roles=None,
        off=None,
        **_SEPARATE,
    ),
    _whole(
        "kandinsky5",
        "Kandinsky 5",
        kandinsky5,
        run_kandinsky5,
        "Kandinsky5T2VPipeline",
        roles=(("content", 5), ("eos", 1)),
        **_SEPARATE,
    ),
    _whole(
        "kandinsky6",
        "Kandinsky 6",
        kandinsky6,
        run_kandinsky6,
        "Kandinsky6TI2VAPipeline",
        segments=("video", "audio", "text"),
        names={"audio_hidden_states": "audio"},
        roles=(("content", 5), ("eos", 1), ("pad", tiny.T5_TEXT - 6)),
        **_SEPARATE,
    ),
    _whole(
        "ltx2",
        "LTX-2",
        ltx2,
        run_ltx2,
        "LTX2Pipeline",
        segments=("video", "audio", "text"),
        words=None,
        roles=None,
        names={
            "image": "video",
            "audio_hidden_states": "audio",
            "audio_encoder_hidden_states": "text",
        },
        off={**_OFF, "audio_guidance_scale": 1.0},
    ),
    _whole("cosmos", "Cosmos", cosmos, run, "CosmosTextToWorldPipeline", **_SEPARATE),
)
