"""Checkpoints of a training stage: weights and optimizer state as safetensors, written atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


class Checkpoint:
    """The state of one stage in `PATH.ckpt.safetensors`.

    Args:
        path: Path without suffix.
        modules: Modules by name; all parameters and buffers are kept.
        optimizers: Optimizers whose per-parameter tensors are kept.
    """

    def __init__(
        self, path: Path, modules: Mapping[str, nn.Module], *optimizers: torch.optim.Optimizer
    ) -> None:
        self.file = path.with_name(path.name + ".ckpt.safetensors")
        self.modules = modules
        self.optimizers = optimizers

    def save(self, step: int) -> None:
        """Write everything; a crash while writing leaves the previous checkpoint."""
        tensors: dict[str, torch.Tensor] = {}
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                tensors[f"{name}/{key}"] = value.detach().cpu().clone().contiguous()
        for which, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    if isinstance(value, torch.Tensor):
                        tensors[f"optimizer/{which}/{index}/{key}"] = (
                            value.detach().cpu().clone().contiguous()
                        )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_suffix(".tmp")
        save_file(tensors, temporary, metadata={"step": str(step)})
        os.replace(temporary, self.file)

    def restore(self) -> int:
        """Load the state if there is one; return the number of finished steps (0 without a checkpoint)."""
        if not self.file.exists():
            return 0
        with safe_open(self.file, framework="pt") as stored:
            step = int(stored.metadata()["step"])
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}
        for name, module in self.modules.items():
            prefix = f"{name}/"
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        for which, optimizer in enumerate(self.optimizers):
            full = optimizer.state_dict()
            full["state"] = _nested(tensors, f"optimizer/{which}/")
            optimizer.load_state_dict(full)
        return step


def _nested(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[int, dict[str, torch.Tensor]]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, name = key[len(prefix) :].split("/")
            state.setdefault(int(index), {})[name] = value
    return state
