"""Stage 1: the autoencoder, trained on painted scenes until edges are sharp."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from sinkscope.shapes.painter import paint
from sinkscope.shapes.scenes import draw
from sinkscope.shapes.train.checkpoint import Checkpoint

LATENT_CHANNELS = 4


def build_vae() -> AutoencoderKL:
    """Return a fresh AutoencoderKL: 64 x 64 x 3 pixels to 16 x 16 x 4 latents, 0.8 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def painted(n: int, rng: np.random.Generator) -> torch.Tensor:
    """Return n random training scenes as images, float32 [n, 3, 64, 64] in [-1, 1]."""
    _, scenes = draw(n, rng)
    jitter = rng.normal(0, 3, size=(n, scenes.shape.shape[1], 3)).astype(np.float32)
    return to_tensor(paint(scenes, jitter=jitter))


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Convert uint8 [n, height, width, 3] to float32 [n, 3, height, width] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def train_vae(folder: Path, *, steps: int, batch: int, device: torch.device, seed: int = 0) -> AutoencoderKL:
    """Train, resuming from `folder/vae.ckpt.safetensors` when it is there, and return the autoencoder.

    The loss is L1 + L2 on pixels and on pixel differences (edges), with a small KL term and noise on the
    latents, so that a denoiser's small errors decode gracefully.
    """
    torch.manual_seed(seed)
    model = build_vae().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    checkpoint = Checkpoint(folder / "vae", {"model": model}, optimizer)
    start = checkpoint.restore()
    if start >= steps:
        return model
    began = time.monotonic()
    pool = painted(12_000, np.random.default_rng(seed))
    for step in range(start, steps):
        lr = _cosine(step, steps, 2e-3, warm=100)
        for group in optimizer.param_groups:
            group["lr"] = lr
        rng = np.random.default_rng((seed, step))
        x = pool[torch.from_numpy(rng.integers(0, len(pool), size=batch))].to(device)
        # float32 on purpose: bf16 convolutions are ten times slower than float32 ones on CPU.
        loss, parts = _loss(model, x.contiguous(memory_format=torch.channels_last), step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step + 1 == steps:
            rate = (step + 1 - start) / (time.monotonic() - began)
            print(
                f"vae step {step} loss {loss.item():.4f} {parts} lr {lr:.1e} {rate:.2f} steps/s", flush=True
            )
        if (step + 1) % 250 == 0 or step + 1 == steps:
            checkpoint.save(step + 1)
    return model


def _cosine(step: int, steps: int, peak: float, warm: int) -> float:
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * share))))


def _loss(model: AutoencoderKL, x: torch.Tensor, step: int) -> tuple[torch.Tensor, str]:
    posterior = model.encode(x).latent_dist
    mean = posterior.mean
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(step)).to(mean)
    y = model.decode(mean + 0.05 * noise).sample.float()
    pixel = F.l1_loss(y, x) + 2 * F.mse_loss(y, x)
    edge = F.l1_loss(y.diff(dim=2), x.diff(dim=2)) + F.l1_loss(y.diff(dim=3), x.diff(dim=3))
    size = (mean.float() ** 2).mean()
    return (
        pixel + edge + 1e-3 * size,
        f"pixel {pixel.item():.4f} edge {edge.item():.4f} size {size.item():.2f}",
    )
