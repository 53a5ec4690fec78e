"""Settings of torch that belong to a process and can change a number: workers take over the caller's."""

from __future__ import annotations

from typing import Any

import torch

_CUDA = ("benchmark", "deterministic", "allow_tf32")


def current() -> dict[str, Any]:
    """The settings of this process, as plain data."""
    return {
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": {name: getattr(torch.backends.cudnn, name) for name in _CUDA},
    }


def apply(settings: dict[str, Any]) -> None:
    """Take over the settings of another process."""
    torch.set_default_dtype(getattr(torch, settings["default_dtype"]))
    torch.set_float32_matmul_precision(settings["matmul"])
    torch.use_deterministic_algorithms(settings["deterministic"], warn_only=settings["warn_only"])
    for name, value in settings["cudnn"].items():
        setattr(torch.backends.cudnn, name, value)
