"""The audit: softmax attention that a session missed is an error, with a diagnosis.

`uncovered` reports, after a forward pass, attention modules that ran without a seen call. What can be known
before running is refused by `_preflight`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import (
    EagerAttentionError,
    FusedBackendError,
    LinearAttentionError,
    UnsupportedAttentionError,
)
from ._eager import without_sdpa
from ._frames import Frame
from ._preflight import hooks_of, who

SOFTMAX: frozenset[Any] = frozenset({torch.softmax, torch.Tensor.softmax, F.softmax, torch.special.softmax})

_LINEAR = re.compile(r"linear|mamba|ssm|retention|delta", re.IGNORECASE)
_NATIVE = ("native", "None", "default")
_SKIPS = {"AttentionProcessorSkipHook", "TransformerBlockSkipHook"}


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
    names = list(dict.fromkeys(frame.name for frame in missed))
    error, reason, remedy = _diagnose(first, _ways_on(names, sites))
    others = f" The same holds for {len(names) - 1} more module(s)." if len(names) > 1 else ""
    raise error(f"{who(first.name, first.module)} {reason} {remedy}{others}")


def _ways_on(missed: Sequence[str], sites: Collection[str]) -> str:
    """Globs of the sites that could be seen, by the last part of their names."""
    bad = {name.rpartition(".")[2] for name in missed}
    good = {name.rpartition(".")[2] for name in sites} - bad
    return ", ".join(f"'*.{name}'" for name in sorted(good))


def _diagnose(frame: Frame, good: str) -> tuple[type[UnsupportedAttentionError], str, str]:
    module = frame.module
    processor = type(getattr(module, "processor", None)).__name__
    backend = _backend(module)
    skips = next((name for name, hook in hooks_of(module) if type(hook).__name__ in _SKIPS), None)
    if skips is not None:
        return (
            UnsupportedAttentionError,
            f"is skipped by the hook {skips!r} of diffusers (layer skipping, perturbed attention), so it "
            "made no softmax.",
            "Take the hook off, choose other sites=, or pass strict=False.",
        )
    elsewhere = f"Restrict the session to other sites: sites={good}." if good else "The model has no other."
    if _takes_blocks(module):
        return (
            FusedBackendError,
            "takes its mask as blocks of flex attention, which never forms softmax weights.",
            _other_processor(module) or elsewhere,
        )
    if frame.softmax:
        return (
            EagerAttentionError,
            "ran softmax outside F.scaled_dot_product_attention.",
            _eager_remedy(module, processor, elsewhere),
        )
    if backend not in _NATIVE:
        return (
            FusedBackendError,
            f"uses the attention backend {backend!r}, which bypasses F.scaled_dot_product_attention.",
            'Call set_attention_backend("native") on the denoiser.',
        )
    if _LINEAR.search(processor) or _LINEAR.search(type(module).__name__):
        return LinearAttentionError, "never forms softmax weights.", elsewhere
    if "xformers" in processor.lower() or "flash" in processor.lower():
        return (
            FusedBackendError,
            "calls a fused kernel that bypasses F.scaled_dot_product_attention.",
            "Call disable_xformers_memory_efficient_attention() or set AttnProcessor2_0.",
        )
    implementation = _implementation(module)
    if implementation not in (None, "sdpa", "eager"):
        return (
            FusedBackendError,
            f"uses attn_implementation={implementation!r}, which bypasses F.scaled_dot_product_attention.",
            'Call set_attn_implementation("sdpa") on the model.',
        )
    return (
        UnsupportedAttentionError,
        "ran without calling F.scaled_dot_product_attention and without a softmax.",
        "A cache or a replaced forward may skip it: switch that off, choose other sites=, or pass "
        "strict=False.",
    )


def _other_processor(module: nn.Module) -> str | None:
    """The processor of the same module that does without blocks (Qwen-Image 2.1)."""
    known = [kind.__name__ for kind in getattr(module, "_available_processors", ())]
    others = [name for name in known if "Flex" not in name]
    if len(others) == len(known) or not others:
        return None
    return f"Use its other one: model.set_attn_processor({others[0]}())."


def _takes_blocks(module: nn.Module) -> bool:
    """Whether the processor of a module was written for flex attention: other backends take no block mask."""
    processor = getattr(module, "processor", None)
    try:
        return processor is not None and "BlockMask" in inspect.getsource(type(processor))
    except (OSError, TypeError):  # written at a prompt
        return False


def _eager_remedy(module: nn.Module, processor: str, elsewhere: str) -> str:
    if processor.startswith("Sliced"):
        return "Call pipe.disable_attention_slicing()."
    if processor != "NoneType":
        return "Use an SDPA processor, for example unet.set_attn_processor(AttnProcessor2_0())."
    if getattr(module, "fused_attn", None) is False:
        return (
            "Call timm.layers.set_fused_attn(True) before the model is built, or set fused_attn=True on it."
        )
    if without_sdpa(module):
        return "transformers has no SDPA path for this model: choose other sites=, or pass strict=False."
    if _implementation(module) is None and type(module).__module__.startswith("diffusers."):
        return f"diffusers has no SDPA path for this module. {elsewhere}"
    return 'Load the model with attn_implementation="sdpa", or call model.set_attn_implementation("sdpa").'


def _implementation(module: nn.Module) -> str | None:
    """Name of the transformers attention implementation a module was configured for."""
    return getattr(getattr(module, "config", None), "_attn_implementation", None)


def _backend(module: nn.Module) -> str:
    """Name of the diffusers attention backend the module's processor is set to."""
    chosen = getattr(getattr(module, "processor", None), "_attention_backend", None)
    if chosen is None:
        from diffusers.models import attention_dispatch

        registry: Any = attention_dispatch._AttentionBackendRegistry
        chosen = registry.get_active_backend()[0]
    return str(getattr(chosen, "value", chosen))
