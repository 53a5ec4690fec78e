"""Stage 4: a tiny CLIP trained on the same scenes, so that CLIP-T runs offline through the real code."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from sinkscope.shapes.painter import COLORS, SHAPES, SIZE, paint
from sinkscope.shapes.scenes import draw
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.tokenizers import CLIP_LENGTH, clip_tokenizer

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_POOL = 12_000


def build_clip() -> CLIPModel:
    """Return a freshly initialised CLIP for 64 x 64 images and the grammar's words, about 1 M parameters."""
    tokenizer = clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": CLIP_LENGTH,
        "hidden_act": "gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_act": "gelu",
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


class _Trainee(nn.Module):
    """CLIP and a training-only read-out of shape and colour counts from the image features."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = build_clip()
        self.readout = nn.Linear(128, len(SHAPES) * len(COLORS))

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.clip.vision_model(images).pooler_output
        told = self.clip.text_model(ids).pooler_output
        image = F.normalize(self.clip.visual_projection(seen), dim=-1)
        text = F.normalize(self.clip.text_projection(told), dim=-1)
        return image, text, self.readout(seen)


def train_clip(
    folder: Path, *, steps: int, device: torch.device, seed: int = 2, batch: int = 96
) -> CLIPModel:
    """Train, resuming from `folder/clip.ckpt.safetensors`, and return the model.

    The loss is CLIP's, with equal captions in a batch sharing their target, plus the read-out.
    """
    torch.manual_seed(seed)
    model = _Trainee().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    checkpoint = Checkpoint(folder / "clip", {"model": model}, optimizer)
    start = checkpoint.restore()
    if start >= steps:
        return model.clip
    pixels, ids, attributes = _pool(seed)
    began = time.monotonic()
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100, 3.0 * (steps - step) / steps)
        rows = torch.from_numpy(np.random.default_rng((seed, step)).integers(0, len(pixels), size=batch))
        image, text, readout = model(_normalised(pixels[rows]).to(device), ids[rows].to(device))
        contrast = _contrast(image, text, ids[rows].to(device), model.clip.logit_scale)
        seen = F.binary_cross_entropy_with_logits(readout, attributes[rows].to(device))
        optimizer.zero_grad(set_to_none=True)
        (contrast + 5 * seen).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.clip.logit_scale.clamp_(max=float(np.log(100.0)))
        if step % 50 == 0:
            rate = (step + 1 - start) / (time.monotonic() - began)
            print(
                f"clip {step} loss {contrast.item():.3f} read {seen.item():.4f} {rate:.2f} steps/s",
                flush=True,
            )
        if (step + 1) % 200 == 0 or step + 1 == steps:
            checkpoint.save(step + 1)
    return model.clip


def _pool(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng((seed, 77))
    captions, scenes = draw(_POOL, rng)
    jitter = rng.normal(0, 3, size=(_POOL, scenes.shape.shape[1], 3)).astype(np.float32)
    pixels = torch.from_numpy(paint(scenes, jitter=jitter))
    ids = clip_tokenizer()(
        [c.text for c in captions],
        padding="max_length",
        max_length=CLIP_LENGTH,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    attributes = torch.zeros(_POOL, len(SHAPES) * len(COLORS))
    row, slot = np.nonzero(scenes.shape >= 0)
    attributes[row, scenes.shape[row, slot] * len(COLORS) + scenes.color[row, slot]] = 1.0
    return pixels, ids, attributes


def _normalised(pixels: Tensor) -> Tensor:
    images = pixels.permute(0, 3, 1, 2).float() / 255.0
    return (images - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


def _contrast(image: Tensor, text: Tensor, ids: Tensor, logit_scale: Tensor) -> Tensor:
    logits = logit_scale.exp() * image @ text.T
    same = (ids[:, None, :] == ids[None, :, :]).all(dim=-1).float()
    target = same / same.sum(dim=1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
