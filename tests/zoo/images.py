"""Image models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests import tiny
from torch import Tensor

from .specimen import Specimen


def latents(pipe: Any, **changes: Any) -> Tensor:
    """Two steps of a tiny pipeline of `tests.tiny`."""
    return tiny.run(pipe, output_type="latent", **changes)


def _known(name: str, title: str, build: Callable[[], Any], **facts: Any) -> Specimen:
    facts = {"guidance": "one batch", "words": "acat", **facts}
    return Specimen(name=name, title=title, group="image", build=build, run=latents, **facts)


IMAGES: tuple[Specimen, ...] = (
    _known("sd3", "Stable Diffusion 3", tiny.tiny_sd3, words="acatacat"),
    _known("sd35", "Stable Diffusion 3.5", tiny.tiny_sd35, words="acatacat"),
    _known("flux", "FLUX.1", tiny.tiny_flux, guidance="distilled"),
    _known("sdxl", "Stable Diffusion XL", tiny.tiny_sdxl),
    _known("sd15", "Stable Diffusion 1.5", tiny.tiny_sd15),
    _known("pixart", "PixArt-Sigma", tiny.tiny_pixart),
)
