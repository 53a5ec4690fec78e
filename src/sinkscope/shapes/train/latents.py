"""Stage 2: painted scenes as latents, captions as token ids, and what lies under every image token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from sinkscope.shapes.grammar import TASKS
from sinkscope.shapes.painter import SHAPES, Scenes, layers, paint
from sinkscope.shapes.scenes import draw
from sinkscope.shapes.train.build import token_ids
from sinkscope.shapes.train.vae import to_tensor

CHUNK = 500
GRID = 8  # image tokens per side


def make_latents(
    folder: Path, vae: AutoencoderKL, *, n: int, device: torch.device, seed: int = 1
) -> dict[str, Tensor]:
    """Return training data, made once and kept in `folder/latents.safetensors`.

    Returns:
        latent: float16 [n, 4, 16, 16]. clip_l, clip_g, t5: token ids int16 [n, position].
        task: index into `TASKS`, uint8 [n].
        shape, color: what covers each image token, uint8 [n, 64], 0 for background.
    """
    file = folder / "latents.safetensors"
    if file.exists():
        data = load_file(file)
        if len(data["latent"]) == n:
            return data
    chunks = [_chunk(vae, np.random.default_rng((seed, i)), device) for i in range(n // CHUNK)]
    data = {key: torch.cat([chunk[key] for chunk in chunks]).contiguous() for key in chunks[0]}
    save_file(data, file)
    return data


@torch.inference_mode()
def _chunk(vae: AutoencoderKL, rng: np.random.Generator, device: torch.device) -> dict[str, Tensor]:
    captions, scenes = draw(CHUNK, rng)
    jitter = rng.normal(0, 3, size=(CHUNK, scenes.shape.shape[1], 3)).astype(np.float32)
    images = to_tensor(paint(scenes, jitter=jitter))
    texts = [c.text.removeprefix("a photo of ") if rng.random() < 0.05 else c.text for c in captions]
    ids = token_ids(texts)
    parts = [
        vae.encode(part.to(device).contiguous(memory_format=torch.channels_last)).latent_dist.mean.cpu()
        for part in images.split(100)
    ]
    shape, color = under_tokens(scenes)
    return {
        "task": torch.tensor([TASKS.index(caption.task) for caption in captions], dtype=torch.uint8),
        "latent": torch.cat(parts).half().contiguous(),
        "clip_l": ids[0].to(torch.int16),
        "clip_g": ids[1].to(torch.int16),
        "t5": ids[2].to(torch.int16),
        "shape": shape,
        "color": color,
    }


def under_tokens(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Shape and colour (1-based, 0 for background) of the object that covers most of each image token."""
    alpha = layers(scenes)
    cell = alpha.shape[-1] // GRID
    share = (
        alpha.reshape(*alpha.shape[:2], GRID, cell, GRID, cell)
        .mean(axis=(3, 5))
        .reshape(len(alpha), -1, GRID**2)
    )
    slot = share.argmax(axis=1)
    covered = share.max(axis=1) > 0.15
    shape = np.where(covered, np.take_along_axis(scenes.shape, slot, axis=1) + 1, 0)
    color = np.where(covered, np.take_along_axis(scenes.color, slot, axis=1) + 1, 0)
    if shape.max() > len(SHAPES):
        raise ValueError(f"shape index {shape.max()} is beyond {len(SHAPES)} shapes")
    return torch.from_numpy(shape.astype(np.uint8)), torch.from_numpy(color.astype(np.uint8))
