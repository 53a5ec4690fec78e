"""The audit: softmax attention that a session would miss is an error, with a diagnosis.

`preflight` refuses what can be known before running; `uncovered` reports attention modules that ran without a
seen call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import (
    CacheActiveError,
    DistributedAttentionError,
    EagerAttentionError,
    FusedBackendError,
    LinearAttentionError,
    ScriptModuleError,
    UnsupportedAttentionError,
)
from ._denoiser import attention_modules, clean, is_script
from ._frames import Frame

SOFTMAX: frozenset[Any] = frozenset({torch.softmax, torch.Tensor.softmax, F.softmax, torch.special.softmax})

_LINEAR = re.compile(r"linear|mamba|ssm|retention", re.IGNORECASE)
_NATIVE = ("native", "None", "default")


def preflight(roots: Mapping[str, nn.Module], covers: Callable[[str], bool]) -> None:
    """Refuse models whose calls cannot be seen or would be partial.

    Raises:
        ScriptModuleError: TorchScript parts.
        DistributedAttentionError: context parallelism shards the keys.
        CacheActiveError: a cache skips attention on some steps.
        UnsupportedAttentionError: no attention module at all.
    """
    for root in roots.values():
        for name, module in root.named_modules():
            if is_script(module):
                raise ScriptModuleError(
                    f"{clean(name) or 'the model'} ({type(module).__name__}) is TorchScript, which hides "
                    "its attention calls. "
                    "Use the original module instead of the traced or scripted one."
                )
            if getattr(module, "_parallel_config", None) is not None:
                raise DistributedAttentionError(
                    f"{_who(clean(name), module)} runs with parallel attention: keys are sharded over "
                    "devices, so mass would be partial. "
                    "Load the model without enable_parallelism(...)."
                )
        if getattr(root, "is_cache_enabled", False):
            raise CacheActiveError(
                f"{type(root).__name__} has a cache enabled that skips attention on some steps, so steps "
                "would be missing. "
                "Call disable_cache() on it first, or open the session with strict=False."
            )
    if not any(attention_modules(root) for root in roots.values()):
        names = ", ".join(type(root).__name__ for root in roots.values())
        raise UnsupportedAttentionError(
            f"{names} has no attention module, expected softmax attention. There is nothing to look at."
        )


def uncovered(missed: Sequence[Frame], sites: Collection[str]) -> None:
    """Raise for attention modules that ran without a seen call.

    Args:
        missed: Frames of modules that were left without one.
        sites: Names of the model's attention sites; containers that merely sound like attention are not among
        them.
    """
    missed = [frame for frame in missed if frame.name in sites]
    if not missed:
        return
    first = missed[0]
    error, reason, remedy = _diagnose(first)
    names = list(dict.fromkeys(frame.name for frame in missed))
    others = f" The same holds for {len(names) - 1} more module(s)." if len(names) > 1 else ""
    raise error(f"{_who(first.name, first.module)} {reason} {remedy}{others}")


def _who(name: str, module: nn.Module) -> str:
    processor = getattr(module, "processor", None)
    with_processor = f", {type(processor).__name__}" if processor is not None else ""
    return f"{name or 'the model'} ({type(module).__name__}{with_processor})"


def _diagnose(frame: Frame) -> tuple[type[UnsupportedAttentionError], str, str]:
    module = frame.module
    processor = type(getattr(module, "processor", None)).__name__
    backend = _backend(module)
    if frame.softmax:
        return (
            EagerAttentionError,
            "ran softmax outside F.scaled_dot_product_attention.",
            _eager_remedy(processor),
        )
    if backend not in _NATIVE:
        return (
            FusedBackendError,
            f"uses the attention backend {backend!r}, which bypasses F.scaled_dot_product_attention.",
            'Call set_attention_backend("native") on the denoiser.',
        )
    if _LINEAR.search(processor) or _LINEAR.search(type(module).__name__):
        last = frame.name.rpartition(".")[2]
        return (
            LinearAttentionError,
            "never forms softmax weights.",
            f"Restrict the session to other sites, for example sites='*.attn2' (this one ends in {last!r}).",
        )
    if "xformers" in processor.lower() or "flash" in processor.lower():
        return (
            FusedBackendError,
            "calls a fused kernel that bypasses F.scaled_dot_product_attention.",
            "Call disable_xformers_memory_efficient_attention() or set AttnProcessor2_0.",
        )
    return (
        UnsupportedAttentionError,
        "ran without calling F.scaled_dot_product_attention and without a softmax.",
        "A cache or a replaced forward may skip it: switch that off, choose other sites=, or open the "
        "session with strict=False.",
    )


def _eager_remedy(processor: str) -> str:
    if processor.startswith("Sliced"):
        return "Call pipe.disable_attention_slicing()."
    if processor != "NoneType":
        return "Use an SDPA processor, for example unet.set_attn_processor(AttnProcessor2_0())."
    return 'Load the model with attn_implementation="sdpa" (timm: set_fused_attn(True)).'


def _backend(module: nn.Module) -> str:
    """Name of the diffusers attention backend the module's processor is set to."""
    chosen = getattr(getattr(module, "processor", None), "_attention_backend", None)
    if chosen is None:
        from diffusers.models import attention_dispatch

        registry: Any = attention_dispatch._AttentionBackendRegistry
        chosen = registry.get_active_backend()[0]
    return str(getattr(chosen, "value", chosen))
