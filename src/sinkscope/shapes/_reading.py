"""What the embedded models that read (texts, images) have in common.

They look like pipelines: components, a scheduler that counts passes, and a call with one entry per unit. A
call gives no images but arrays: for each unit a mapping from names to NumPy arrays, with at least

- `loss`: nats of each token or answer, float32
- `predicted`, `target`: the most likely and the true answer, int64, of the same shape
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sinkscope.errors import UsageError
from sinkscope.shapes._passes import Passes

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Generators: TypeAlias = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True)
class Readings:
    """What a call gives."""

    arrays: list[dict[str, NDArray[Any]]]
    """One mapping per unit."""


class Reader:
    """A model that reads, as a pipeline."""

    output_kind: ClassVar[str] = "arrays"
    """A study keeps arrays instead of images."""
    defaults: ClassVar[dict[str, Any]] = {"num_inference_steps": 1}
    """The settings the model is made for."""

    def __init__(self, transformer: nn.Module, **others: Any) -> None:
        self.transformer = transformer.eval().requires_grad_(False)
        self.scheduler = Passes()
        self.components: dict[str, Any] = {"transformer": transformer, "scheduler": self.scheduler, **others}
        self._progress_bar_config: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's weights."""
        return next(self.transformer.parameters()).dtype

    def to(self, *where: Any, **options: Any) -> Reader:
        """Move the network, or change its type, as `torch.nn.Module.to` does."""
        self.transformer.to(*where, **options)
        return self

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Keep the settings; a run of milliseconds shows no bar."""
        self._progress_bar_config = settings

    def _one_pass(self, asked: int) -> None:
        if asked != 1:
            raise UsageError(
                f"{type(self).__name__} reads in one forward pass, got num_inference_steps={asked}. Set "
                "steps=1."
            )


def load_quietly(kind: Any, folder: Path, dtype: torch.dtype | None) -> Any:
    """A model of transformers from its folder, without a progress bar for a few megabytes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = kind.from_pretrained(folder, local_files_only=True, attn_implementation="sdpa")
    finally:
        if shown:
            logging.enable_progress_bar()
    return model if dtype is None else model.to(dtype)


def each(generator: Generators, count: int) -> list[torch.Generator]:
    """One generator per unit; None stands for seeds 0, 1, 2 ...

    Raises:
        UsageError: Their number is another one.
    """
    if generator is None:
        return [torch.Generator().manual_seed(index) for index in range(count)]
    found = generator if isinstance(generator, list) else [generator] * count
    if len(found) != count:
        raise UsageError(f"Got {len(found)} generators for {count} units; expected one each, or one for all.")
    return found


def answers(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Loss, prediction and truth from logits `[..., answer]` and the index of the true answer `[...]`."""
    logits = logits.float()
    loss = F.cross_entropy(logits.movedim(-1, 1), target, reduction="none")
    return {"loss": loss, "predicted": logits.argmax(-1), "target": target}


def rows(values: Mapping[str, Tensor]) -> list[dict[str, NDArray[Any]]]:
    """Tensors `[unit, ...]` by name as one mapping of arrays per unit."""
    arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in values.items()}
    count = len(next(iter(arrays.values())))
    return [{name: value[index].copy() for name, value in arrays.items()} for index in range(count)]
