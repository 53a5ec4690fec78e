"""Stage 3: the denoiser and its text encoders, trained together by flow matching.

- Logit-normal noise levels, velocity target, 10 % empty prompts for guidance (SD3 paper, sections 2 and 3).
- Muon for the weight matrices of the blocks, AdamW for the rest; constant rate, then linear decay over the
  last third.
- A linear read-out of shape and colour from the middle block's image tokens joins the loss and is thrown away
  after training: supervised alignment makes diffusion transformers learn several times faster (REPA, Yu et
  al. 2024).
- The exponential moving average of the weights is what ships.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from sinkscope.shapes.train.build import Conditioner, Size, build_transformer, token_ids
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.loop import READOUT_CLASSES, Plan, draw_rows, optimizers, readout_loss, run
from sinkscope.shapes.train.tokenizers import clip_tokenizer, t5_tokenizer


class Trainee(nn.Module):
    """Denoiser, text encoders and the training-only read-out, called as one module."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.transformer: SD3Transformer2DModel = build_transformer(size)
        self.conditioner = Conditioner(size, clip_tokenizer(), t5_tokenizer())
        width = size.heads * size.head_dim
        self.readout = nn.Linear(width, sum(READOUT_CLASSES))
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
    modules = {"model": model, "averaged": averaged}
    checkpoint = Checkpoint(folder / "denoiser", modules, *optimizers(model, plan, _is_matrix))
    start = checkpoint.restore()
    if plan.compile:
        for block in model.transformer.transformer_blocks:
            block.compile()
    scale, empty = latent_scale(data), token_ids([""])

    def loss_at(step: int) -> tuple[Tensor, Tensor]:
        return _loss(model, data, empty, plan, step, device, *scale)

    run(model, averaged, loss_at, plan=plan, checkpoint=checkpoint, start=start)
    return averaged


def latent_scale(data: dict[str, Tensor]) -> tuple[float, float]:
    """Mean and standard deviation of all latents: SD3's shift_factor and 1 / scaling_factor."""
    latent = data["latent"][:4000].float()
    return float(latent.mean()), float(latent.std())


def _is_matrix(name: str, p: nn.Parameter) -> bool:
    return "transformer_blocks" in name and "norm" not in name and p.ndim == 2


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
    rows, drop, generator = draw_rows(data, plan, step)
    sigma = torch.sigmoid(plan.sigma_mean + torch.randn(plan.batch, generator=generator)).to(device)
    clean = ((data["latent"][rows].float() - mean) / std).to(device)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    ids = []
    for name, blank in zip(("clip_l", "clip_g", "t5"), empty, strict=True):
        ids.append(torch.where(drop[:, None], blank, data[name][rows].long()).to(device))
    s = sigma[:, None, None, None]
    velocity, logits = model((1 - s) * clean + s * noise, (ids[0], ids[1], ids[2]), sigma)
    return F.mse_loss(velocity, noise - clean), readout_loss(logits, data, rows)
