"""A pipeline around the planted denoiser: prompts in, pictures of coloured squares out.

It has what sinkscope asks of any text-to-image pipeline (components, `encode_prompt`, a scheduler of
diffusers, the usual arguments) and nothing made for the bench. What a prompt asks for is in its words: one of
eight colours, and "night" for the second task. The model can paint squares only, so prompts that ask for a
circle fail in every arm, as some prompts do with any model.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import UsageError
from sinkscope.recipes.planted._model import COLOR, GRID, TEXT, TEXTURE, PlantedTransformer
from sinkscope.recipes.planted._plant import TASKS, TEXT_KEYS
from sinkscope.shapes.painter import BACKGROUND, PALETTE

COLORS = ("red", "yellow", "green", "blue", "purple", "pink", "black", "white")
PATCH = 8
START = 0.03
"""Standard deviation of the colour latents before the first step."""
GRAIN = 0.01
"""How strongly texture shows in the picture."""


class PlantedPipeline:
    """Text to image with a planted denoiser."""

    def __init__(self, transformer: PlantedTransformer) -> None:
        self.transformer = transformer
        self.scheduler = FlowMatchEulerDiscreteScheduler()
        self.components = {"transformer": transformer, "scheduler": self.scheduler}
        self.palette = (_rgb([PALETTE[name] for name in COLORS]) - _rgb(BACKGROUND)).to(transformer.device)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the denoiser."""
        return self.transformer.dtype

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Keep the settings; a run of milliseconds shows no bar."""
        self._progress_bar_config = settings

    def encode_prompt(self, prompt: list[str]) -> tuple[Tensor, Tensor]:
        """Words `[prompt, 8, 8]`, and colour, wrong colour and task `[prompt, 18]`.

        Raises:
            UsageError: a prompt names none of the colours.
        """
        words = torch.stack([_words(text) for text in prompt])
        pooled = torch.stack([_pooled(text) for text in prompt])
        return words.to(self.device), pooled.to(self.device)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        num_inference_steps: int = 4,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
    ) -> Any:
        """Generate one picture of 64 x 64 pixels per prompt.

        Args:
            prompt: One or several.
            num_inference_steps: Equal steps.
            generator: One for all prompts or one each.
            output_type: "pil", or "np" for float `[prompt, 64, 64, 3]` in 0..1.

        Returns:
            An object with `images`.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        words, pooled = self.encode_prompt(texts)
        latents = _start(len(texts), generator).to(self.device)
        # Equal parts of the run; the scheduler's own spacing leaves the last step almost none.
        sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=sigmas.tolist(), device=self.device)
        for timestep in self.scheduler.timesteps:
            velocity = self.transformer(latents, words, pooled, timestep.expand(len(texts)))
            latents = self.scheduler.step(velocity, timestep, latents).prev_sample
        pixels = self._decode(latents)
        images = [Image.fromarray((p * 255).round().astype(np.uint8)) for p in pixels]
        return SimpleNamespace(images=pixels if output_type == "np" else images)

    def _decode(self, latents: Tensor) -> NDArray[np.float32]:
        """Latents `[row, 12, 8, 8]` to pixels `[row, 64, 64, 3]`: flat patches, and the grain of the
        texture."""
        color, texture = latents[:, :COLOR], latents[:, COLOR : COLOR + 3]
        rgb = torch.einsum("bchw,cx->bxhw", color, self.palette) + GRAIN * texture
        rgb = rgb + _rgb(BACKGROUND).to(rgb)[:, None, None]
        large = rgb.clamp(0, 1).repeat_interleave(PATCH, dim=2).repeat_interleave(PATCH, dim=3)
        return np.asarray(large.permute(0, 2, 3, 1).cpu().numpy())


def _rgb(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32) / 255


def _start(count: int, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    each = generator if isinstance(generator, list) else [generator] * count
    if len(each) != count:
        raise UsageError(
            f"Got {len(each)} generators for {count} prompts; expected one each, or one for all."
        )
    noise = torch.stack([torch.randn(COLOR + TEXTURE, GRID, GRID, generator=g) for g in each])
    noise[:, :COLOR] *= START
    return noise


def _words(text: str) -> Tensor:
    """Standard normal numbers keyed by each word and its place, `[8, 8]`."""
    split = text.split()[: TEXT_KEYS - 1]
    tokens = ["<start>", *split, *["<pad>"] * (TEXT_KEYS - 1 - len(split))]
    return torch.stack([_hashed(f"{place}/{token}") for place, token in enumerate(tokens)])


def _hashed(text: str) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.randn(TEXT, generator=torch.Generator().manual_seed(seed))


def _pooled(text: str) -> Tensor:
    named = [name for name in COLORS if name in text.split()]
    if len(named) != 1:
        raise UsageError(f"Prompt {text!r} names {len(named)} colours; expected one of {', '.join(COLORS)}.")
    asked = COLORS.index(named[0])
    pooled = torch.zeros(2 * COLOR + len(TASKS))
    # The wrong colour lies half-way round the list, far from the right one.
    pooled[asked] = pooled[COLOR + (asked + COLOR // 2) % COLOR] = 1.0
    pooled[2 * COLOR + int("night" in text.split())] = 1.0
    return pooled
