"""What the trainers of the small readers share: command line, optimisers, schedule, record and export."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sinkscope.shapes.train.muon import Muon

WARM = 100
"""Steps of warming up."""


def settings(
    about: str | None, models: Iterable[str], given: Sequence[str] | None, *, steps: int, lr: float
) -> argparse.Namespace:
    """The command line of a trainer; also seeds torch and sets its threads."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("model", choices=list(models))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    found = parser.parse_args(given)
    torch.set_num_threads(found.threads)
    torch.manual_seed(found.seed)
    return found


def fit(
    model: nn.Module, loss_of: Callable[[int], Tensor], *, steps: int, lr: float, say: Callable[[str], None]
) -> float:
    """Train a model and return the seconds it took.

    Weight matrices are trained by Muon, everything else (embeddings, norms, the last layer) by AdamW; both
    warm up over `WARM` steps and then fall linearly to zero.

    Args:
        model: What is trained.
        loss_of: The loss of a step, by its number.
        steps: How many.
        lr: Highest learning rate, on AdamW's scale.
        say: Told the loss now and then.
    """
    named = dict(model.named_parameters())
    inner = [
        name
        for name, p in named.items()
        if p.dim() == 2 and "embed" not in name and not name.startswith(("lm_head", "classifier"))
    ]
    optimizers: list[torch.optim.Optimizer] = [
        Muon([named[name] for name in inner], lr=lr, weight_decay=0.01),
        torch.optim.AdamW([p for name, p in named.items() if name not in inner], lr=lr, weight_decay=0.0),
    ]
    started, smooth = time.perf_counter(), None
    model.train()
    for step in range(steps):
        share = min(1.0, (step + 1) / WARM) * (1.0 - max(0, step - WARM) / max(1, steps - WARM))
        loss = loss_of(step)
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
        if step % 100 == 99 or step == steps - 1:
            say(f"step {step + 1}/{steps} loss {smooth:.3f} {time.perf_counter() - started:.0f} s")
    model.eval()
    return time.perf_counter() - started


def export(model: Any, folder: Path, record: dict[str, Any]) -> None:
    """Write a model of transformers as safetensors, without the folder it came from, and its record."""
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # nothing is generated
    versions = {name: version(name) for name in ("torch", "transformers", "numpy")}
    record = {**record, "versions": {"python": platform.python_version(), **versions}}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
