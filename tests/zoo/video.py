"""Video models whose frames attend to each other directly; `motion` holds the others."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import Any
from unittest import mock

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from tests import tiny
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from . import bare_video as bare
from .motion import MOTION
from .specimen import Specimen

FRAMES = {"height": 32, "width": 48, "num_frames": 9}
"""Three latent frames of two by three tokens."""
T5_ROLES = (("content", 6), ("eos", 1), ("pad", tiny.T5_TEXT - 7))


def run(pipe: Any, **changes: Any) -> Tensor:
    """Two steps of a tiny pipeline."""
    given = {
        "prompt": "a cat",
        "num_inference_steps": 2,
        "max_sequence_length": tiny.T5_TEXT,
        **FRAMES,
        **changes,
    }
    return pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).frames


def cogvideox(text: int = tiny.T5_TEXT) -> CogVideoXPipeline:
    """CogVideoX: joint attention, text before video. It has places for `text` tokens of text."""
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=2,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=text,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    pipe = CogVideoXPipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=tiny.t5_encoder(),
        vae=vae,
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(),
    )
    return tiny._finish(pipe, transformer)


def _wan_transformer(**options: Any) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        out_channels=16,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        **{"in_channels": 16, **options},
    )


def _wan_parts() -> dict[str, Any]:
    encoder = UMT5Config(
        vocab_size=len(tiny.t5_tokenizer()), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    return {
        "tokenizer": tiny.t5_tokenizer(),
        "text_encoder": UMT5EncoderModel(encoder),
        "vae": AutoencoderKLWan(base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }


def wan(experts: int = 1) -> WanPipeline:
    """Wan: self and cross attention; 2.2 has an expert for noisy and one for clean steps."""
    torch.manual_seed(0)
    first, *more = (_wan_transformer() for _ in range(experts))
    pipe = WanPipeline(
        transformer=first,
        transformer_2=more[0] if more else None,
        boundary_ratio=0.9 if more else None,
        **_wan_parts(),
    )
    for transformer in more:
        tiny._spread(transformer)
    return tiny._finish(pipe, first)


def run_wan(pipe: Any, **changes: Any) -> Tensor:
    """Some versions of the pipelines take it for granted that ftfy is there."""
    module = sys.modules[type(pipe).__module__]
    with mock.patch.object(module, "prompt_clean", str):
        return run(pipe, **changes)


def wan_i2v() -> WanImageToVideoPipeline:
    """Wan image-to-video: the features of the first frame have an attention call of their own."""
    torch.manual_seed(0)
    transformer = _wan_transformer(in_channels=36, image_dim=8, added_kv_proj_dim=24)
    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    pipe = WanImageToVideoPipeline(
        transformer=transformer,
        image_processor=CLIPImageProcessor(size=8, crop_size=8),
        image_encoder=CLIPVisionModel(vision),
        **_wan_parts(),
    )
    return tiny._finish(pipe, transformer)


def run_wan_i2v(pipe: Any, **changes: Any) -> Tensor:
    """The transformer takes it for granted that the text has 512 tokens."""
    image = Image.new("RGB", (48, 32), (200, 60, 20))
    return run_wan(pipe, **{"image": image, "max_sequence_length": 512, **changes})


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Character-level tokenizer with the marks of Llama 3."""
    marks = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<pad>", "<unk>"]
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocab = {piece: number for number, piece in enumerate([*marks, *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=marks[0],
        eos_token=marks[3],
        pad_token=marks[4],
        unk_token=marks[5],
        additional_special_tokens=marks[1:3],
        padding_side="right",
    )


def llama_parts() -> dict[str, Any]:
    """Text encoders of HunyuanVideo and FramePack."""
    tokenizer = llama_tokenizer()
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    clip = tiny.clip_encoder(CLIPTextModel).config
    clip.max_position_embeddings = 77
    return {
        "text_encoder": LlamaModel(llama),
        "tokenizer": tokenizer,
        "text_encoder_2": CLIPTextModel(clip),
        "tokenizer_2": tiny.clip_tokenizer(),
    }


def hunyuan_video() -> HunyuanVideoPipeline:
    """HunyuanVideo: video before text, pads masked, the text refined by attention of its own."""
    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
    )
    pipe = HunyuanVideoPipeline(
        transformer=transformer,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **llama_parts(),
    )
    return tiny._finish(pipe, transformer)


def run_hunyuan_video(pipe: Any, **changes: Any) -> Tensor:
    """The template's own part is cut off behind the encoder."""
    head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    start = head("system") + "Tell.<|eot_id|>" + head("user")
    template = {"template": start + "{}<|eot_id|>", "crop_start": len(pipe.tokenizer(start).input_ids)}
    return run(pipe, prompt_template=template, **changes)


def ltx() -> LTXPipeline:
    """LTX-Video: the pipeline packs the latents, masks are floats."""
    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=32,
    )
    pipe = LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=tiny.t5_encoder(),
        tokenizer=tiny.t5_tokenizer(),
        transformer=transformer,
    )
    return tiny._finish(pipe, transformer)


def mochi() -> MochiPipeline:
    """Mochi: one call per sample, over the tokens of the text that are no padding."""
    torch.manual_seed(0)
    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=tiny.T5_TEXT,
    )
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=tiny.t5_encoder(),
        tokenizer=tiny.t5_tokenizer(),
        transformer=transformer,
    )
    return tiny._finish(pipe, transformer)


def run_mochi(pipe: Any, **changes: Any) -> Tensor:
    """The model switches autocast off, which torch finds worth a warning where it was never on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CPU [Aa]utocast")
        return run(pipe, **{"num_frames": 13, **changes})


def allegro() -> AllegroPipeline:
    """Allegro: self and cross attention, masks are floats."""
    torch.manual_seed(0)
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=2,
        cross_attention_dim=48,
        sample_height=4,
        sample_width=6,
        sample_frames=3,
        caption_channels=32,
    )
    pipe = AllegroPipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=tiny.t5_encoder(),
        vae=None,
        transformer=transformer,
        scheduler=EulerDiscreteScheduler(),
    )
    return tiny._finish(pipe, transformer)


def _known(name: str, title: str, build: Any, play: Any = run, **facts: Any) -> Specimen:
    usual = {
        "guidance": "one batch",
        "segments": ("video", "text"),
        "words": "acat",
        "roles": T5_ROLES,
        "off": {"guidance_scale": 1.0, "prompt": ["a cat", "an owl"]},
    }
    return Specimen(name=name, title=title, group="video", build=build, run=play, **{**usual, **facts})


_BARE = dict.fromkeys(("words", "roles", "two", "other", "off")) | {"whole": False, "guidance": "none"}
_SEPARATE = {"guidance": "separate calls", "order": ("cond", "uncond")}

VIDEO: tuple[Specimen, ...] = (
    _known("cogvideox", "CogVideoX", cogvideox),
    _known("wan21", "Wan 2.1", wan, run_wan, schedulers=("flow euler",), **_SEPARATE),
    _known("wan22", "Wan 2.2", functools.partial(wan, 2), run_wan, **_SEPARATE),
    _known(
        "wan_i2v",
        "Wan image-to-video",
        wan_i2v,
        run_wan_i2v,
        segments=("video", "image", "text"),
        names={"encoder_hidden_states_image": "image"},
        roles=(*T5_ROLES[:2], ("pad", 512 - 7)),
        **_SEPARATE,
    ),
    _known(
        "hunyuan_video",
        "HunyuanVideo",
        hunyuan_video,
        run_hunyuan_video,
        guidance="distilled",
        roles=(("content", 5), ("eos", 1), ("pad", tiny.T5_TEXT - 6)),
    ),
    _known(
        "ltx",
        "LTX-Video",
        ltx,
        functools.partial(run, height=64, width=96, num_frames=17),
        names={"image": "video"},
    ),
    _known(
        "mochi",
        "Mochi 1",
        mochi,
        run_mochi,
        segments=("video", "text", "pooled"),
        finer={"pooled": "text"},
        brief={"num_inference_steps": 2},
    ),
    _known("allegro", "Allegro", allegro, functools.partial(run, clean_caption=False)),
    _known(
        "hunyuan_video_15_i2v",
        "HunyuanVideo 1.5 image-to-video",
        bare.hunyuan_video_15,
        bare.run_hunyuan_video_15,
        segments=("video", "image", "text", "padding"),
        names={"image_embeds": "image"},
        needs=("HunyuanVideo15Transformer3DModel",),
        **_BARE,
    ),
    _known("vace", "Wan VACE", bare.vace, bare.run_vace, mixed=True, **_BARE),
    _known("easyanimate", "EasyAnimate", bare.easyanimate, bare.run_usual, **_BARE),
    *MOTION,
)
