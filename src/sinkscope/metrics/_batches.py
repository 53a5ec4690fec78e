"""Forward passes in batches that fit into memory, in exact float32 whatever the caller's settings are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from sinkscope.errors import SinkscopeError, UsageError, unknown

Item = TypeVar("Item")

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""float32 is the default: half precision rounds scores near 0.3 to steps of 2.4e-4, as large as effects."""

_log = logging.getLogger("sinkscope.metrics")


class Batches:
    """Runs a function over items in batches; halves the batch when memory runs out, and says so.

    Args:
        name: Of the metric, for messages.
        size: Items per batch at first.
        device: For messages, and whose cache is emptied.
    """

    def __init__(self, name: str, size: int, device: str) -> None:
        if size < 1:
            raise UsageError(f"Got batch={size}, expected at least 1.")
        check_device(device)
        self.name, self.size, self.device = name, size, device

    def __call__(self, items: Sequence[Item], forward: Callable[[Sequence[Item]], Tensor]) -> Tensor:
        """Concatenate `forward` of successive batches along the first axis; at least one item is needed."""
        parts: list[Tensor] = []
        start = 0
        while start < len(items):
            batch = items[start : start + self.size]
            try:
                parts.append(forward(batch))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                message = str(error).partition("\n")[0][:200]
            else:
                start += len(batch)
                continue
            # Outside the handler: the exception keeps the tensors of the failed pass alive.
            self._halve(len(batch), message)
        return torch.cat(parts)

    def _halve(self, used: int, message: str) -> None:
        if used == 1:
            raise SinkscopeError(
                f"Metric {self.name!r} does not fit into the memory of {self.device} even one item at a time "
                f"({message}). Use another device, or free memory."
            )
        self.size = used // 2
        _log.warning(
            "%s: out of memory with %d at a time on %s, going on with %d",
            self.name,
            used,
            self.device,
            self.size,
        )
        empty_cache()


def empty_cache() -> None:
    """Give memory that PyTorch keeps for later back to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, on a GPU or in main memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def check_device(device: str) -> None:
    """Raise `UsageError` unless there is such a device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        first = str(error).partition("\n")[0][:160]
        raise UsageError(
            f"Got device {device!r}, which cannot be used here ({first}). Use 'cpu', or 'cuda' with a GPU."
        ) from error


def dtype_named(name: str) -> torch.dtype:
    """The dtype of a metric's `dtype` option."""
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


@contextmanager
def exact(device: str) -> Iterator[None]:
    """No gradients, no autocast, and no TF32: PyTorch allows TF32 in convolutions by default, which keeps
    10 bits of mantissa and would move scores from one GPU to the next.
    """
    with torch.inference_mode(), torch.autocast(torch.device(device).type, enabled=False), _no_tf32(device):
        yield


@contextmanager
def _no_tf32(device: str) -> Iterator[None]:
    if not device.startswith("cuda"):
        yield
        return
    flags: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = False
    try:
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value
