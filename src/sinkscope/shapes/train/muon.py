"""Muon in float32: momentum whose update is orthogonalised, for the weight matrices of the denoiser.

`torch.optim.Muon` orthogonalises in bfloat16, which CPUs without bf16 instructions run many times
slower than float32; this one also batches matrices of one shape. Method: Jordan et al. 2024, with the update
scaled to the root-mean-square of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices [out, in] and convolutions, taken as [out, in * height * width].

    Args:
        params: Parameters of two or more dimensions.
        lr: Learning rate, on the scale of AdamW's.
        momentum: Nesterov momentum.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]).flatten(1)
                shapes.setdefault(update.shape, []).append((p, update))
            for shape, pairs in shapes.items():
                updates = _orthogonal(torch.stack([update for _, update in pairs]))
                scale = 0.2 * max(shape) ** 0.5
                for (p, _), update in zip(pairs, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.view(p.shape), alpha=-group["lr"] * scale)


def _orthogonal(update: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of a stack [n, out, in], by Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    tall = update.shape[-2] > update.shape[-1]
    x = update.mT if tall else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x.mT if tall else x
