"""What must be as before after any session, and an independent count of attention calls."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sinkscope.models._denoiser import denoisers


def state(pipe: Any) -> tuple[Any, ...]:
    """Hooks, instance attributes, function modes and compiler stance around a pipeline."""
    from torch._dynamo import eval_frame

    parts = list(pipe.components.values()) if hasattr(pipe, "components") else [pipe]
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    hooks = [(tuple(module._forward_hooks), tuple(module._forward_pre_hooks)) for module in modules]
    wrapped = [
        name
        for holder in (pipe, *parts, *modules)
        for name, value in getattr(holder, "__dict__", {}).items()
        if hasattr(value, "sinkscope_wrapper")
    ]
    return hooks, wrapped, torch._C._len_torch_function_stack(), eval_frame._stance.stance


class _Counter(TorchDispatchMode):
    calls = 0

    def __init__(self, written_out: bool) -> None:
        super().__init__()
        self.written_out = written_out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.calls += ("scaled_dot_product" in name and "backward" not in name) or "_safe_softmax" in name
        # Of the softmaxes that models write out only those of attention are over more than two axes.
        self.calls += self.written_out and "aten._softmax" in name and args[0].dim() > 2
        return func(*args, **(kwargs or {}))


@contextmanager
def dispatch_count(pipe: Any, *, written_out: bool = False) -> Iterator[list[int]]:
    """Count attention kernels run inside the denoisers, below everything a session looks at; with
    `written_out` also attention whose softmax the model computes itself."""
    total = [0]

    def counted(forward: Any) -> Any:
        @functools.wraps(forward)  # modular pipelines ask for the names of its parameters
        def call(*args: Any, **kwargs: Any) -> Any:
            with _Counter(written_out) as counter:
                result = forward(*args, **kwargs)
            total[0] += counter.calls
            return result

        return call

    roots = denoisers(pipe).values()
    for root in roots:
        root.forward = counted(root.forward)
    try:
        yield total
    finally:
        for root in roots:
            del root.forward
