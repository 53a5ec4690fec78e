"""Stage 3: the denoiser and its text encoders, trained together by flow matching.

- Logit-normal noise levels, velocity target, 10 % empty prompts for guidance (SD3 paper, sections 2 and 3).
- Muon for the weight matrices of the blocks, AdamW for the rest; constant rate, then linear decay over the
  last third.
- A linear read-out of shape and colour from the middle block's image tokens joins the loss and is thrown away
  after
  training: supervised alignment makes diffusion transformers learn several times faster (REPA, Yu et al.
  2024).
- The exponential moving average of the weights is what ships.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from sinkscope.shapes.grammar import TASKS
from sinkscope.shapes.painter import COLORS, SHAPES
from sinkscope.shapes.train.build import Conditioner, Size, build_transformer, token_ids
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.muon import Muon
from sinkscope.shapes.train.tokenizers import clip_tokenizer, t5_tokenizer

_DECAY_SHARE = 0.33
_EMPTY_SHARE = 0.1
_SAVE_EVERY = 200


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one training run does; two runs with equal plans end with equal weights on one machine."""

    steps: int
    batch: int = 64
    matrix_lr: float = 2e-3
    other_lr: float = 1e-3
    readout_weight: float = 0.2
    sigma_mean: float = 0.0
    """Mean of the logit-normal noise level; above 0 dwells on high noise, where the layout is decided."""
    task_shares: tuple[float, ...] = (1.0,) * len(TASKS)
    """How often each task is drawn, in the order of `TASKS`."""
    compile: bool = False
    ema: float = 0.9985
    seed: int = 2


class Trainee(nn.Module):
    """Denoiser, text encoders and the training-only read-out, called as one module."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.transformer: SD3Transformer2DModel = build_transformer(size)
        self.conditioner = Conditioner(size, clip_tokenizer(), t5_tokenizer())
        width = size.heads * size.head_dim
        self.readout = nn.Linear(width, len(SHAPES) + len(COLORS) + 2)
        self._middle: Tensor | None = None
        self.transformer.transformer_blocks[size.layers // 2].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: object, output: tuple[Tensor, Tensor]) -> None:
        self._middle = output[1]

    def forward(
        self, latent: Tensor, ids: tuple[Tensor, Tensor, Tensor], sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return velocity [row, 4, 16, 16] and read-out logits [row, token, classes]."""
        states, pooled = self.conditioner(*ids)
        velocity = self.transformer(
            latent, encoder_hidden_states=states, pooled_projections=pooled, timestep=1000 * sigma
        ).sample
        if self._middle is None:
            raise RuntimeError("the middle block did not run")
        return velocity, self.readout(self._middle)


def train_denoiser(
    folder: Path, data: dict[str, Tensor], plan: Plan, *, size: Size, device: torch.device
) -> Trainee:
    """Train, resuming from `folder/denoiser.ckpt.safetensors`, and return the averaged model."""
    torch.manual_seed(plan.seed)
    model, averaged = Trainee(size).to(device), Trainee(size).to(device)
    averaged.load_state_dict(model.state_dict())
    muon, adam = _optimizers(model, plan)
    checkpoint = Checkpoint(folder / "denoiser", {"model": model, "averaged": averaged}, muon, adam)
    start = checkpoint.restore()
    if plan.compile:
        for block in model.transformer.transformer_blocks:
            block.compile()
    mean, std = latent_scale(data)
    empty = token_ids([""])
    began = time.monotonic()
    for step in range(start, plan.steps):
        for optimizer, peak in ((muon, plan.matrix_lr), (adam, plan.other_lr)):
            for group in optimizer.param_groups:
                group["lr"] = peak * _schedule(step, plan.steps)
        loss, readout = _loss(model, data, empty, plan, step, device, mean, std)
        muon.zero_grad(set_to_none=True)
        adam.zero_grad(set_to_none=True)
        (loss + plan.readout_weight * readout).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        _average(averaged, model, min(plan.ema, (step + 1) / (step + 10)))
        if step % 50 == 0:
            rate = (step + 1 - start) / (time.monotonic() - began)
            print(
                f"step {step} loss {loss.item():.4f} readout {readout.item():.3f} {rate:.2f} steps/s",
                flush=True,
            )
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == plan.steps:
            checkpoint.save(step + 1)
    return averaged


def latent_scale(data: dict[str, Tensor]) -> tuple[float, float]:
    """Mean and standard deviation of all latents: SD3's shift_factor and 1 / scaling_factor."""
    latent = data["latent"][:4000].float()
    return float(latent.mean()), float(latent.std())


def _schedule(step: int, steps: int) -> float:
    left = (steps - step) / (_DECAY_SHARE * steps)
    return min(1.0, (step + 1) / 200, left)


def _optimizers(model: Trainee, plan: Plan) -> tuple[Muon, torch.optim.AdamW]:
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        inside = "transformer_blocks" in name and "norm" not in name
        (matrices if inside and p.ndim == 2 else others).append(p)
    return (
        Muon(matrices, lr=plan.matrix_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=plan.other_lr, betas=(0.9, 0.98), weight_decay=0.01),
    )


def _loss(
    model: Trainee,
    data: dict[str, Tensor],
    empty: tuple[Tensor, Tensor, Tensor],
    plan: Plan,
    step: int,
    device: torch.device,
    mean: float,
    std: float,
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    weights = torch.tensor(plan.task_shares)[data["task"].long()]
    rows = torch.multinomial(weights, plan.batch, replacement=True, generator=generator)
    drop = torch.rand(plan.batch, generator=generator) < _EMPTY_SHARE
    sigma = torch.sigmoid(plan.sigma_mean + torch.randn(plan.batch, generator=generator)).to(device)
    clean = ((data["latent"][rows].float() - mean) / std).to(device)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    ids = []
    for name, blank in zip(("clip_l", "clip_g", "t5"), empty, strict=True):
        ids.append(torch.where(drop[:, None], blank, data[name][rows].long()).to(device))
    s = sigma[:, None, None, None]
    velocity, logits = model((1 - s) * clean + s * noise, (ids[0], ids[1], ids[2]), sigma)
    loss = F.mse_loss(velocity, noise - clean)
    shapes, colors = logits.split([len(SHAPES) + 1, len(COLORS) + 1], dim=-1)
    readout = F.cross_entropy(shapes.flatten(0, 1), data["shape"][rows].long().flatten().to(device))
    readout = readout + F.cross_entropy(colors.flatten(0, 1), data["color"][rows].long().flatten().to(device))
    return loss, readout


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)
