"""Counting the forward passes of a model that is no diffusion pipeline, as a scheduler counts steps.

Whoever listens to a pipeline (`sinkscope.observe`) hears a new generation at `set_timesteps` and a finished
step at `step`, as with the schedulers of diffusers.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Passes:
    """A schedule of equal forward passes.

    Attributes:
        timesteps: Number of each pass, int64 `[step]`.
        sigmas: Share of the tokens still hidden before each pass, and at the end: float32 `[step + 1]`.
    """

    def __init__(self) -> None:
        self.set_timesteps(1)

    def set_timesteps(self, count: int) -> None:
        """Start again, with so many passes."""
        self.timesteps: Tensor = torch.arange(count)
        self.sigmas: Tensor = torch.linspace(1.0, 0.0, count + 1)

    def step(self) -> None:
        """One pass is over."""
