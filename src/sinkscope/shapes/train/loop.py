"""The training loop that the denoisers share: rows drawn by step, learning rate, averaging, checkpoints.

Everything random is drawn from a generator of the step, so a resumed run ends with the weights of an
uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinkscope.shapes.grammar import TASKS
from sinkscope.shapes.painter import COLORS, SHAPES
from sinkscope.shapes.train.checkpoint import Checkpoint
from sinkscope.shapes.train.muon import Muon

READOUT_CLASSES = (len(SHAPES) + 1, len(COLORS) + 1)
"""Classes of the read-out per image token: shapes and background, colours and background."""
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
    """Mean logit of the noise level; above 0 dwells on high noise, where the layout is decided."""
    task_shares: tuple[float, ...] = (1.0,) * len(TASKS)
    """How often each task is drawn, in the order of `TASKS`."""
    compile: bool = False
    ema: float = 0.9985
    seed: int = 2


class Draw(NamedTuple):
    """What one step draws first.

    Attributes:
        rows: Indices of the training data [plan.batch].
        empty: Rows that are trained without their prompt, for guidance; bool [plan.batch].
        generator: Where the step's other draws come from.
    """

    rows: Tensor
    empty: Tensor
    generator: torch.Generator


def draw_rows(data: dict[str, Tensor], plan: Plan, step: int) -> Draw:
    """Draw the rows of a step by the plan's task shares."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    weights = torch.tensor(plan.task_shares)[data["task"].long()]
    rows = torch.multinomial(weights, plan.batch, replacement=True, generator=generator)
    empty = torch.rand(plan.batch, generator=generator) < _EMPTY_SHARE
    return Draw(rows, empty, generator)


def readout_loss(logits: Tensor, data: dict[str, Tensor], rows: Tensor) -> Tensor:
    """Cross entropy of shape and of colour under every image token; logits [row, token, classes]."""
    shapes, colors = logits.split(READOUT_CLASSES, dim=-1)
    device = logits.device
    loss = F.cross_entropy(shapes.flatten(0, 1), data["shape"][rows].long().flatten().to(device))
    return loss + F.cross_entropy(colors.flatten(0, 1), data["color"][rows].long().flatten().to(device))


def optimizers(
    model: nn.Module, plan: Plan, is_matrix: Callable[[str, nn.Parameter], bool]
) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the parameters that `is_matrix` names, AdamW for the others; frozen ones are left out."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (matrices if is_matrix(name, p) else others).append(p)
    return (
        Muon(matrices, lr=plan.matrix_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=plan.other_lr, betas=(0.9, 0.98), weight_decay=0.01),
    )


def run(
    model: nn.Module,
    averaged: nn.Module,
    loss_at: Callable[[int], tuple[Tensor, Tensor]],
    *,
    plan: Plan,
    checkpoint: Checkpoint,
    start: int,
) -> None:
    """Train from step `start` to the plan's end, saving on the way.

    Args:
        model: What learns.
        averaged: Its moving average, which ships.
        loss_at: Step to the loss of the denoiser and of the read-out.
        plan: Steps, rates and weights.
        checkpoint: Where to save; its optimizers are the two of `optimizers`.
        start: Finished steps.
    """
    muon, adam = checkpoint.optimizers
    began = time.monotonic()
    for step in range(start, plan.steps):
        for optimizer, peak in ((muon, plan.matrix_lr), (adam, plan.other_lr)):
            for group in optimizer.param_groups:
                group["lr"] = peak * _schedule(step, plan.steps)
        loss, readout = loss_at(step)
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


def _schedule(step: int, steps: int) -> float:
    left = (steps - step) / (_DECAY_SHARE * steps)
    return min(1.0, (step + 1) / 200, left)


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)
