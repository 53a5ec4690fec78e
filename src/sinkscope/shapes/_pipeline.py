"""`StableDiffusion3Pipeline` with the embedded model's defaults in place of SD3's."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

DEFAULTS = {"num_inference_steps": 20, "guidance_scale": 4.0, "max_sequence_length": 16}


class ShapesPipeline(StableDiffusion3Pipeline):  # type: ignore[misc]
    """Stable Diffusion 3's own pipeline; only the default steps, guidance and T5 length differ."""

    @torch.no_grad()
    @functools.wraps(StableDiffusion3Pipeline.__call__)
    def __call__(self, prompt: str | list[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate images as `StableDiffusion3Pipeline` does, with the defaults of `DEFAULTS`."""
        if len(args) < 5:  # num_inference_steps is SD3's sixth parameter
            kwargs = {**DEFAULTS, **kwargs}
        return super().__call__(prompt, *args, **kwargs)
