"""Image models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests import tiny
from torch import Tensor

from .schedulers import DIFFUSION, FLOW
from .specimen import Specimen


def latents(pipe: Any, **changes: Any) -> Tensor:
    """Two steps of a tiny pipeline of `tests.tiny`."""
    return tiny.run(pipe, output_type="latent", **changes)


def _known(name: str, title: str, build: Callable[[], Any], **facts: Any) -> Specimen:
    facts = {"guidance": "one batch", "words": "acat", **facts}
    return Specimen(name=name, title=title, group="image", build=build, run=latents, **facts)


_CLIP = (("bos", 1), ("content", 4), ("eos", 1), ("pad", tiny.TEXT - 6))
_T5 = (("content", 6), ("eos", 1), ("pad", tiny.T5_TEXT - 7))
_SD3 = {"words": "acatacat", "segments": ("image", "text", "clip", "t5"), "roles": (*_CLIP, *_T5)}

IMAGES: tuple[Specimen, ...] = (
    _known("sd3", "Stable Diffusion 3", tiny.tiny_sd3, schedulers=FLOW, **_SD3),
    _known("sd35", "Stable Diffusion 3.5", tiny.tiny_sd35, **_SD3),
    _known("flux", "FLUX.1", tiny.tiny_flux, guidance="distilled", roles=_T5),
    _known("sdxl", "Stable Diffusion XL", tiny.tiny_sdxl, schedulers=DIFFUSION, roles=_CLIP),
    _known("sd15", "Stable Diffusion 1.5", tiny.tiny_sd15, schedulers=DIFFUSION, roles=_CLIP),
    _known("pixart", "PixArt-Sigma", tiny.tiny_pixart, schedulers=DIFFUSION, roles=_T5),
)
