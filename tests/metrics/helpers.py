"""Small images, prompts and checkpoints for the tests of the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from tests.metrics.peer_cases import clip_tokenizer
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from sinkscope.metrics._lpips_net import LAYOUTS, Net


@dataclass(frozen=True)
class Prompt:
    text: str
    task: str = "single_object"
    metadata: dict[str, Any] = field(default_factory=dict)


PROMPTS = [Prompt("a red circle"), Prompt("a blue square"), Prompt("two green stars")]


def image(seed: int, size: tuple[int, int] = (64, 64), blur: float = 1.5) -> Image.Image:
    """Smooth noise of `size` (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(blur))


def noisy(base: Image.Image, scale: float = 15.0, seed: int = 1) -> Image.Image:
    pixels = np.asarray(base).astype(float)
    pixels += np.random.default_rng(seed).normal(scale=scale, size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def tiny_clip(folder: Path, *, half: bool = False) -> Path:
    """A random CLIP with a character-level vocabulary: 32 px images, 16 tokens."""
    clip_tokenizer(folder)
    words = 54
    torch.manual_seed(0)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        "vocab_size": words,
        "max_position_embeddings": 16,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
    config = CLIPConfig(
        text_config=shared | text,
        vision_config=shared | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = CLIPModel(config)
    (model.half() if half else model).save_pretrained(folder)
    return folder


def tiny_siglip(folder: Path) -> Path:
    """A random SigLIP with the vocabulary of `tiny_clip`."""
    tiny_clip(folder)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 54, "max_position_embeddings": 16, "projection_size": 32}
    config = SiglipConfig(
        text_config=shared | text, vision_config=shared | {"image_size": 32, "patch_size": 8}
    )
    SiglipModel(config).save_pretrained(folder)
    return folder


def random_lpips(folder: Path, net: Net = "alex") -> Path:
    """A converted folder of random weights in the released layout."""
    from sinkscope.metrics.convert import convert

    generator = torch.Generator().manual_seed(0)
    kernels = {0: 11, 3: 5} if net == "alex" else {}
    state, before = {}, 3
    for stage, channels in zip(LAYOUTS[net].stages, LAYOUTS[net].channels, strict=True):
        for index in stage.convs:
            side = kernels.get(index, 3)
            scale = (2 / (before * side * side)) ** 0.5
            state[f"features.{index}.weight"] = scale * torch.randn(
                channels, before, side, side, generator=generator
            )
            state[f"features.{index}.bias"] = torch.zeros(channels)
            before = channels
    linear = {
        f"lin{i}.model.1.weight": torch.rand(1, channels, 1, 1, generator=generator)
        for i, channels in enumerate(LAYOUTS[net].channels)
    }
    torch.save(state, folder / "backbone.pth")
    torch.save(linear, folder / "linear.pth")
    return convert(f"lpips-{net}", [folder / "backbone.pth", folder / "linear.pth"], folder / "made")
