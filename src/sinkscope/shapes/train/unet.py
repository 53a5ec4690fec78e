"""The UNet of "shapes-unet", trained with the text encoders and the autoencoder of the embedded model frozen.

- Stable Diffusion XL's `UNet2DConditionModel` at 1/400 of its size: self- and cross-attention on 8 x 8 image
  tokens, text of two CLIP encoders on shared positions, pooled text and image size added to the time.
- Velocity target on the noise levels of the pipeline's own scheduler, the last of which is pure noise (Lin et
  al. 2023, "Common diffusion noise schedules ..."); timesteps stratified over the batch (Kingma et al. 2021,
  "Variational diffusion models", appendix I.1).
- One row in ten learns without its prompt: most see the zeros that the pipeline takes for an absent negative
  prompt (`force_zeros_for_empty_prompt`, as in SDXL), the others the empty prompt's states.
- Muon for matrices and convolutions of the blocks, AdamW for the rest; a read-out of shape and colour from
  the middle block joins the loss and is thrown away after training; the moving average ships.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sinkscope.errors import UsageError
from sinkscope.shapes.painter import SIZE
from sinkscope.shapes.train.build import token_ids
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.latents import GRID
from sinkscope.shapes.train.loop import READOUT_CLASSES, Plan, draw_rows, optimizers, readout_loss, run

_TIME_DIM = 32
_TIME_IDS = (SIZE, SIZE, 0, 0, SIZE, SIZE)  # original size, crop, target size, as the pipeline passes them
_ENCODED_SHARE = 0.3  # of the rows without a prompt, those that see the empty prompt's states


@dataclass(frozen=True)
class UnetSize:
    """Sizes of the UNet; half the width on 16 x 16 latents, the full width on 8 x 8, where attention is."""

    layers: int = 4
    """Transformer layers of the 8 x 8 down block and of the middle block; two more follow on the way up."""
    heads: int = 4
    head_dim: int = 24

    def __post_init__(self) -> None:
        if self.heads % 2 or self.head_dim % 8:
            raise UsageError(
                f"Got {self.heads} heads of {self.head_dim}, expected an even number of heads, each a "
                "multiple of 8 wide: half the width must split into 8 groups of channels."
            )

    def to_dict(self) -> dict[str, int]:
        """Return the sizes by name."""
        return asdict(self)


class Encoders(nn.Module):
    """CLIP-L and CLIP-G of an exported pipeline, combined as `StableDiffusionXLPipeline` does."""

    def __init__(self, pipeline: Path) -> None:
        super().__init__()
        self.clip_l = CLIPTextModel.from_pretrained(pipeline / "text_encoder", local_files_only=True)
        self.clip_g = CLIPTextModelWithProjection.from_pretrained(
            pipeline / "text_encoder_2", local_files_only=True
        )
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, ids_l: Tensor, ids_g: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [row, position] to text states [row, position, width] and pooled text of CLIP-G."""
        left = self.clip_l(ids_l, output_hidden_states=True)
        right = self.clip_g(ids_g, output_hidden_states=True)
        return torch.cat([left.hidden_states[-2], right.hidden_states[-2]], dim=-1), right.text_embeds


def build_unet(size: UnetSize, *, text_width: int, pooled_width: int) -> UNet2DConditionModel:
    """Return the denoiser of 16 x 16 x 4 latents, 3.5 M parameters at the default size."""
    width = size.heads * size.head_dim
    return UNet2DConditionModel(
        sample_size=2 * GRID,
        in_channels=4,
        out_channels=4,
        block_out_channels=(width // 2, width),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        transformer_layers_per_block=(1, size.layers),
        reverse_transformer_layers_per_block=(1, 1),
        attention_head_dim=(size.heads // 2, size.heads),  # diffusers' name for the number of heads
        cross_attention_dim=text_width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_DIM,
        projection_class_embeddings_input_dim=pooled_width + len(_TIME_IDS) * _TIME_DIM,
    )


def build_scheduler() -> EulerDiscreteScheduler:
    """Return the scheduler of training and of the pipeline: SDXL's betas, ending at pure noise."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


class Noised(NamedTuple):
    """What the denoiser sees and what it should say; both [row, 4, 16, 16]."""

    latent: Tensor
    velocity: Tensor


def noised(clean: Tensor, noise: Tensor, share: Tensor) -> Noised:
    """Mix clean latents with noise and return the velocity of Salimans and Ho (2022).

    Args:
        clean: Scaled latents [row, 4, 16, 16].
        noise: Standard normal, of the same shape.
        share: The scheduler's `alphas_cumprod` at each row's timestep [row]: the clean share of the variance.
    """
    a, s = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
    return Noised(a * clean + s * noise, a * noise - s * clean)


class Trainee(nn.Module):
    """UNet, frozen text encoders and the training-only read-out, called as one module."""

    def __init__(self, size: UnetSize, pipeline: Path) -> None:
        super().__init__()
        self.encoders = Encoders(pipeline)
        left, right = self.encoders.clip_l.config, self.encoders.clip_g.config
        self.unet = build_unet(
            size, text_width=left.hidden_size + right.hidden_size, pooled_width=right.projection_dim
        ).to(memory_format=torch.channels_last)
        self.readout = nn.Linear(size.heads * size.head_dim, sum(READOUT_CLASSES))
        self._middle: Tensor | None = None
        self.unet.mid_block.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: object, output: Tensor) -> None:
        self._middle = output

    def forward(
        self, latent: Tensor, ids: tuple[Tensor, Tensor], zeroed: Tensor, timestep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return velocity [row, 4, 16, 16] and read-out logits [row, token, classes].

        Args:
            latent: Noised latents [row, 4, 16, 16].
            ids: Token ids for CLIP-L and CLIP-G [row, position].
            zeroed: Rows whose text is zeros, bool [row].
            timestep: Of the scheduler, int64 [row].
        """
        states, pooled = self.encoders(*ids)
        states, pooled = states.masked_fill(zeroed[:, None, None], 0), pooled.masked_fill(zeroed[:, None], 0)
        sizes = torch.tensor([_TIME_IDS], dtype=pooled.dtype, device=pooled.device).expand(len(pooled), -1)
        velocity = self.unet(
            latent.contiguous(memory_format=torch.channels_last),
            timestep,
            states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample
        if self._middle is None:
            raise RuntimeError("the middle block did not run")
        return velocity, self.readout(self._middle.flatten(2).mT)


def train_unet(
    folder: Path, data: dict[str, Tensor], plan: Plan, *, size: UnetSize, pipeline: Path, device: torch.device
) -> Trainee:
    """Train, resuming from `folder/unet.ckpt.safetensors`, and return the averaged model.

    Args:
        folder: Where the checkpoint lies.
        data: What `make_latents` returns.
        plan: Steps, rates and weights.
        size: Sizes of the UNet.
        pipeline: Pipeline folder that gives the text encoders, the scale of the latents and, where it has
            one, the UNet to begin from (with a fresh optimizer and read-out).
        device: Where to train.
    """
    torch.manual_seed(plan.seed)
    model, averaged = Trainee(size, pipeline).to(device), Trainee(size, pipeline).to(device)
    if (pipeline / "unet").is_dir():
        model.unet.load_state_dict(
            UNet2DConditionModel.from_pretrained(pipeline / "unet", local_files_only=True).state_dict()
        )
    averaged.load_state_dict(model.state_dict())
    modules = {"model": model, "averaged": averaged}
    checkpoint = Checkpoint(folder / "unet", modules, *optimizers(model, plan, _is_matrix))
    start = checkpoint.restore()
    if plan.compile:
        model.unet.compile_repeated_blocks()
    scale = _latent_scale(pipeline)
    shares = build_scheduler().alphas_cumprod

    def loss_at(step: int) -> tuple[Tensor, Tensor]:
        return _loss(model, data, scale, shares, plan, step, device)

    run(model, averaged, loss_at, plan=plan, checkpoint=checkpoint, start=start)
    return averaged


def _latent_scale(pipeline: Path) -> float:
    """The autoencoder's `scaling_factor`; SDXL's pipeline knows no shift, so none is trained."""
    from diffusers import AutoencoderKL

    return float(AutoencoderKL.load_config(pipeline / "vae", local_files_only=True)["scaling_factor"])


def _is_matrix(name: str, p: nn.Parameter) -> bool:
    return "_block" in name and p.ndim > 1


def _loss(
    model: Trainee,
    data: dict[str, Tensor],
    scale: float,
    shares: Tensor,
    plan: Plan,
    step: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    rows, empty, generator = draw_rows(data, plan, step)
    timestep = _timesteps(plan, len(shares), generator)
    zeroed = empty & (torch.rand(plan.batch, generator=generator) >= _ENCODED_SHARE)
    clean = scale * data["latent"][rows].float()
    seen = noised(clean, torch.randn(clean.shape, generator=generator), shares[timestep])
    blank_l, blank_g, _ = token_ids([""])
    ids_l = torch.where(empty[:, None], blank_l, data["clip_l"][rows].long())
    ids_g = torch.where(empty[:, None], blank_g, data["clip_g"][rows].long())
    velocity, logits = model(
        seen.latent.to(device),
        (ids_l.to(device), ids_g.to(device)),
        zeroed.to(device),
        timestep.to(device),
    )
    return F.mse_loss(velocity, seen.velocity.to(device)), readout_loss(logits, data, rows)


def _timesteps(plan: Plan, n: int, generator: torch.Generator) -> Tensor:
    """One timestep per row, one from each of `plan.batch` equal parts of (0, 1), shifted in logit."""
    part = torch.arange(plan.batch) + torch.rand(plan.batch, generator=generator)
    level = torch.sigmoid(torch.logit(part / plan.batch, eps=1e-6) + plan.sigma_mean)
    return (n * level).long().clamp(max=n - 1)
