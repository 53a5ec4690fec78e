"""A denoiser whose attention masses and values are planted, in plain torch.

Two blocks of joint attention over image and text tokens, one `F.scaled_dot_product_attention` call each.
Queries hold a constant that says whether they are image or text; keys hold the logarithm of their planted
mass at that place, so softmax gives back the mass. Both also hold a little noise, from the texture of the
latents and from the words, as no real attention is the same for two pictures. The first block only stirs the
noise: its heavy keys reach nothing that matters. The second carries the colour.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinkscope.recipes.planted._plant import HEADS, IMAGE_KEYS, TEXT_KEYS, Plant

COLOR, TEXTURE, TEXT = 8, 4, 8
"""Latent channels of colour and of texture; width of a word."""
GRID = 8
HEAD_DIM = 16
JITTER = 0.15
"""Standard deviation, in nats, of the noise in the logits."""
STIR = 0.05


def _frozen(table: Any) -> nn.Parameter:
    return nn.Parameter(torch.as_tensor(np.asarray(table), dtype=torch.float32), requires_grad=False)


class PlantedAttention(nn.Module):
    """Joint attention of image and text tokens: one softmax call with planted logits."""

    def __init__(self, mass: Any, text_mass: Any) -> None:
        super().__init__()
        # The mark of joint attention in diffusers; what is joined is found by the layout probe.
        self.added_kv_proj_dim = TEXT
        self.heads = HEADS
        self.log_mass = _frozen(np.log(mass))
        self.log_text_mass = _frozen(np.log(text_mass))

    def forward(self, noise: Tensor, values: Tensor, phase: int) -> Tensor:
        """Attend.

        Args:
            noise: Standard normal numbers of every token, `[row, token, 4]`.
            values: `[row, head, token, dim]`.
            phase: Which of the planted phases.

        Returns:
            `[row, head, token, dim]`.
        """
        rows, tokens, count = noise.shape
        shape = (rows, HEADS, tokens, HEAD_DIM)
        query, key = noise.new_zeros(shape), noise.new_zeros(shape)
        query[..., :IMAGE_KEYS, 0] = query[..., IMAGE_KEYS:, 1] = math.sqrt(HEAD_DIM)
        key[..., 0] = self.log_mass[min(phase, len(self.log_mass) - 1)]
        key[..., 1] = self.log_text_mass
        # The logit of two tokens gets JITTER * n_i.n_j / sqrt(4), of standard deviation JITTER.
        width = math.sqrt(JITTER * math.sqrt(HEAD_DIM / count))
        query[..., 2 : 2 + count] = key[..., 2 : 2 + count] = width * noise[:, None]
        return F.scaled_dot_product_attention(query, key, values)


class Block(nn.Module):
    """One block: nothing but its attention."""

    def __init__(self, mass: Any, text_mass: Any) -> None:
        super().__init__()
        self.attn = PlantedAttention(mass, text_mass)

    def forward(self, noise: Tensor, values: Tensor, phase: int) -> Tensor:
        """See `PlantedAttention`."""
        return self.attn(noise, values, phase)


class PlantedTransformer(nn.Module):
    """Velocity of the latents, from the colour that attention carries to the tokens of the square.

    Args:
        plant: The tables of the second block.
        decoy: Masses of the first block, `[head, key]`.
        square: True at the image tokens that show the colour, `[64]`.
        phases: Into how many phases the run is divided where the plant has several.
        seed: Of the fixed random maps of texture and words.
    """

    def __init__(self, plant: Plant, *, decoy: Any, square: Any, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.transformer_blocks = nn.ModuleList(
            [Block(decoy[None], decoy), Block(plant.mass, plant.text_mass)]
        )
        self.carry, self.mislead = _frozen(plant.carry), _frozen(plant.mislead)
        self.noise = _frozen(plant.noise)
        self.square = _frozen(square)
        self.read_words = _frozen(torch.randn(TEXT, TEXTURE, generator=generator) / math.sqrt(TEXT))
        self.read_noise = _frozen(torch.randn(TEXTURE, COLOR, generator=generator) / math.sqrt(TEXTURE))
        self.norm: nn.Module = nn.Identity()
        if plant.floor is not None:
            # Root mean square and length differ by sqrt(COLOR).
            self.norm = nn.RMSNorm(COLOR, eps=plant.floor**2 / COLOR)
            self.norm.weight = _frozen(np.full(COLOR, COLOR**-0.5))
        self.around = float(plant.around)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the tables."""
        return self.square.dtype

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.square.device

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
    ) -> Tensor:
        """Velocity `[row, 12, 8, 8]`.

        Args:
            hidden_states: Latents `[row, 12, 8, 8]`: 8 channels of colour, 4 of texture.
            encoder_hidden_states: Words, `[row, 8, 8]`.
            pooled_projections: The prompt's colour, a wrong one, and its task, `[row, 8 + 8 + 2]`.
            timestep: 1000 at the start of the run to 0 at its end, `[row]`.
        """
        texture = hidden_states[:, COLOR:].flatten(2).transpose(1, 2)
        noise = torch.cat([texture, encoder_hidden_states @ self.read_words], dim=1)
        phase = self._phase(timestep)
        stirred = self.transformer_blocks[0](noise, noise[:, None].expand(-1, HEADS, -1, -1), 0)
        noise = noise + STIR * stirred.mean(1)
        output = self.transformer_blocks[1](noise, self._values(noise, pooled_projections, phase), phase)
        shown = self.norm(output[:, :, :IMAGE_KEYS].mean(1)) * self.square[:, None]
        asked = pooled_projections[:, None, :COLOR] * self.square[:, None]
        color = (1.0 - self.around) * shown + self.around * asked
        velocity = torch.zeros_like(hidden_states)
        velocity[:, :COLOR] = -color.transpose(1, 2).unflatten(2, (GRID, GRID))
        return velocity

    def _phase(self, timestep: Tensor) -> int:
        phases = self.carry.shape[1]
        done = 1.0 - float(timestep.flatten()[0]) / 1000.0
        return min(int(done * phases + 1e-3), phases - 1)

    def _values(self, noise: Tensor, pooled: Tensor, phase: int) -> Tensor:
        """Values `[row, head, key, colour]`: carried colour, wrong colour, and noise."""
        asked, wrong, task = pooled.split([COLOR, COLOR, len(self.carry)], dim=1)
        tables = [torch.einsum("bt,thk->bhk", task, table[:, phase]) for table in (self.carry, self.mislead)]
        carried = torch.einsum("bhk,bc->bhkc", tables[0], asked)
        misled = torch.einsum("bhk,bc->bhkc", tables[1], wrong)
        rest = (noise @ self.read_noise)[:, None] * self.noise[..., None]
        return carried + misled + rest


assert IMAGE_KEYS == GRID * GRID and TEXT_KEYS == 8
