"""Image models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tests import tiny
from torch import Tensor

from . import image_bare as bare
from . import image_crossed as crossed
from . import image_pipelines as pipelines
from .schedulers import DIFFUSION, FLOW
from .specimen import Specimen


def latents(pipe: Any, **changes: Any) -> Tensor:
    """Two steps of a tiny pipeline of `tests.tiny`."""
    return tiny.run(pipe, output_type="latent", **changes)


def _known(name: str, title: str, build: Callable[[], Any], **facts: Any) -> Specimen:
    facts = {"guidance": "one batch", "words": "acat", **facts}
    return Specimen(name=name, title=title, group="image", build=build, run=latents, **facts)


def _run(pipe: Any, *, defaults: Mapping[str, Any], **changes: Any) -> Tensor:
    return pipelines.run(pipe, **{**defaults, **changes})


def _pipe(
    name: str, title: str, build: Callable[[], Any], given: Mapping[str, Any], **facts: Any
) -> Specimen:
    facts = {"words": "acat", "run": partial(_run, defaults=given), **facts}
    return Specimen(name=name, title=title, group="image", build=build, **facts)


def _bare(name: str, title: str, build: Callable[[], Any], run: Any, **facts: Any) -> Specimen:
    facts = {"two": None, "other": None, "off": None, "whole": False, **facts}
    return Specimen(name=name, title=title, group="image", build=build, run=run, **facts)


_CLIP = (("bos", 1), ("content", 4), ("eos", 1), ("pad", tiny.TEXT - 6))
_T5 = (("content", 6), ("eos", 1), ("pad", tiny.T5_TEXT - 7))
_SD3 = {"words": "acatacat", "segments": ("image", "text", "clip", "t5"), "roles": (*_CLIP, *_T5)}
_LLAMA = (("bos", 1), ("content", 5), ("pad", tiny.T5_TEXT - 6))
_PLAIN = {"use_resolution_binning": False, "clean_caption": False}
_SQUARE = {"height": 32, "width": 32}
_SEPARATE: dict[str, Any] = {"guidance": "separate calls", "order": ("cond", "uncond")}
_USER = len("<user\n")
_REPLY = len("\n<assistant")
_TURN = (("template", _USER), ("content", 5), ("eos", 1), ("template", _REPLY))
"""A chat turn for one token per byte, turn marks counted as one."""

IMAGES: tuple[Specimen, ...] = (
    _known("sd3", "Stable Diffusion 3", tiny.tiny_sd3, schedulers=FLOW, **_SD3),
    _known("sd35", "Stable Diffusion 3.5", tiny.tiny_sd35, **_SD3),
    _known("flux", "FLUX.1", tiny.tiny_flux, guidance="distilled", roles=_T5, schedulers=("flow unipc",)),
    _known("sdxl", "Stable Diffusion XL", tiny.tiny_sdxl, schedulers=DIFFUSION, roles=_CLIP),
    _known("sd15", "Stable Diffusion 1.5", tiny.tiny_sd15, schedulers=DIFFUSION, roles=_CLIP),
    _known("pixart", "PixArt-Sigma", tiny.tiny_pixart, schedulers=DIFFUSION, roles=_T5),
    _pipe(
        "kontext",
        "FLUX.1 Kontext",
        pipelines.kontext,
        {
            "image": pipelines.picture(),
            "max_sequence_length": tiny.T5_TEXT,
            "max_area": 256,
            "_auto_resize": False,
        },
        roles=_T5,
        segments=("text", "image", "reference"),
        guidance="distilled",
        finer={"reference": "image"},
    ),
    _pipe(
        "flux2",
        "FLUX.2",
        pipelines.flux2,
        {"height": 8, "width": 8, "max_sequence_length": 40, "text_encoder_out_layers": (0, 1)},
        needs=("Flux2KleinPipeline",),
        schedulers=("flow unipc",),
        roles=(*_TURN, ("pad", 40 - 6 - 6 - _REPLY)),
        **_SEPARATE,
    ),
    _pipe(
        "chroma",
        "Chroma",
        pipelines.chroma,
        {"max_sequence_length": tiny.T5_TEXT},
        schedulers=("flow unipc",),
        roles=_T5,
        **_SEPARATE,
    ),
    _pipe(
        "qwen-image",
        "Qwen-Image",
        pipelines.qwen_image,
        {"negative_prompt": "x"},
        schedulers=("flow unipc",),
        roles=(("content", 5), ("eos", 1), ("template", 1)),
        off={"true_cfg_scale": 1.0, "num_images_per_prompt": 2},
        **_SEPARATE,
    ),
    _pipe(
        "z-image",
        "Z-Image",
        pipelines.z_image,
        {"max_sequence_length": 64},
        needs=("ZImagePipeline",),
        roles=_TURN,
        segments=("image", "text", "padding"),
        guidance="one batch",
        order=("cond", "uncond"),
        off={"guidance_scale": 0.0, "num_images_per_prompt": 2},
    ),
    _pipe(
        "lumina2",
        "Lumina-Image 2.0",
        pipelines.lumina2,
        {"height": 64, "width": 64, "max_sequence_length": 48},
        roles=(("bos", 1), ("template", len("Be nice. <Prompt Start> ")), ("content", 5)),
        segments=("image", "text", "padding"),
        schedulers=("flow unipc",),
        **_SEPARATE,
    ),
    _pipe(
        "hidream",
        "HiDream-I1",
        pipelines.hidream,
        {"max_sequence_length": tiny.T5_TEXT},
        words="acatacatacat",
        roles=(*_T5, *_LLAMA, *_LLAMA),
        segments=("image", "text", "t5", "llama_last", "llama_layer"),
        guidance="one batch",
        schedulers=("flow unipc",),
    ),
    _pipe(
        "auraflow",
        "AuraFlow",
        pipelines.auraflow,
        {"max_sequence_length": tiny.T5_TEXT},
        roles=(("content", 5), ("eos", 1), ("pad", tiny.T5_TEXT - 6)),
        segments=("register", "text", "image"),
        guidance="one batch",
        schedulers=FLOW,
    ),
    _pipe(
        "cogview4",
        "CogView4",
        pipelines.cogview4,
        {},
        roles=(("pad", 9), ("template", 2), ("content", 5)),
        **_SEPARATE,
    ),
    _pipe(
        "pixart-alpha",
        "PixArt-alpha",
        crossed.pixart_alpha,
        {"max_sequence_length": tiny.T5_TEXT, **_PLAIN},
        roles=_T5,
        guidance="one batch",
        schedulers=DIFFUSION,
    ),
    _pipe(
        "hunyuan-dit",
        "Hunyuan-DiT",
        crossed.hunyuan_dit,
        {"use_resolution_binning": False},
        words="acatacat",
        roles=(("bos", 1), ("content", 4), ("eos", 1), ("content", 6), ("eos", 1)),
        segments=("image", "text", "clip", "t5", "padding", "pooled"),
        finer={"pooled": "text"},
        guidance="one batch",
        schedulers=DIFFUSION,
    ),
    _pipe(
        "sana",
        "Sana",
        crossed.sana,
        {"max_sequence_length": 20, **_SQUARE, "complex_human_instruction": ["Do: "], **_PLAIN},
        roles=(("bos", 1), ("template", 1), ("content", 5), ("pad", 13)),
        segments=("text",),
        guidance="one batch",
        sites="*.attn2",
        refused="never forms softmax weights",
        schedulers=("flow unipc",),
    ),
    _pipe(
        "dit",
        "DiT (class-conditional)",
        crossed.dit,
        {},
        run=crossed.run_dit,
        words=None,
        segments=("image",),
        guidance="one batch",
        order=("cond", "uncond"),
        two={"class_labels": [1, 2]},
        other={"class_labels": [5]},
        off={"class_labels": [1, 2], "guidance_scale": 1.0},
        schedulers=DIFFUSION,
    ),
    _pipe(
        "kandinsky22",
        "Kandinsky 2.2 (decoder)",
        crossed.kandinsky22,
        {},
        run=crossed.run_kandinsky,
        words=None,
        segments=("image_embed", "image"),
        guidance="one batch",
        two={"image_embeds": crossed.embedding(2, 3)},
        off={"image_embeds": crossed.embedding(2, 3), "guidance_scale": 1.0},
        other={"image_embeds": crossed.embedding(4)},
        names={"register": "image_embed"},
        schedulers=("euler", "ddim"),
    ),
    _bare("cogview3", "CogView3-Plus", bare.cogview3, bare.run_cogview3),
    _bare("ovis", "Ovis-Image", bare.ovis, bare.run_flux_like, needs=("OvisImageTransformer2DModel",)),
    _bare(
        "longcat",
        "LongCat-Image",
        bare.longcat,
        bare.run_flux_like,
        needs=("LongCatImageTransformer2DModel",),
    ),
    _bare("bria", "Bria 3", bare.bria, bare.run_flux_like, needs=("BriaTransformer2DModel",)),
    _bare(
        "hunyuan-image",
        "HunyuanImage 2.1",
        bare.hunyuan_image,
        bare.run_hunyuan_image,
        needs=("HunyuanImageTransformer2DModel",),
    ),
    _bare("ernie", "ERNIE-Image", bare.ernie, bare.run_ernie, needs=("ErnieImageTransformer2DModel",)),
    _bare("prx", "PRX", bare.prx, bare.run_prx, needs=("PRXTransformer2DModel",)),
    _bare("lumina-next", "Lumina-Next", bare.lumina_next, bare.run_lumina_next, mixed=True),
    _bare(
        "cascade",
        "Stable Cascade (prior)",
        bare.cascade,
        bare.run_cascade,
        segments=("image", "text", "pooled", "image_embed"),
        names={"clip_text_pooled": "pooled", "clip_img": "image_embed"},
    ),
)
