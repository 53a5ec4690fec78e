"""Which modules of a pipeline are denoisers, and which of their modules look like attention."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UnsupportedAttentionError, UsageError

UNGUIDED = "unconditional_transformer"
"""Component name of a denoiser that makes the side of guidance without a prompt (Ideogram 4)."""
DENOISERS = ("transformer", "transformer_2", UNGUIDED, "unet", "prior", "denoiser")
"""Component names under which diffusers pipelines keep the network that is called once per step."""

# The blocks of LLaDA's own code call the kernel themselves.
_LOOKS = re.compile(r"Attention|Attn|^LLaDA\w*Block$")
_LOOKS_NOT = re.compile(r"Processor|Norm|Rotary|Rope|RoPE|Embed|Output|Backend")


def unwrap(module: nn.Module) -> nn.Module:
    """The module behind `torch.compile`."""
    original = getattr(module, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else module


def opened(pipe: Any) -> tuple[Any, Any]:
    """The model of a pipeline of transformers and what makes its token ids, and the model inside of one that
    peft wrapped; anything else as it is."""
    model, tokenizer = getattr(pipe, "model", None), None
    if not isinstance(pipe, nn.Module) and isinstance(model, nn.Module) and not hasattr(pipe, "components"):
        pipe, tokenizer = model, getattr(pipe, "tokenizer", None) or getattr(pipe, "processor", None)
    return (pipe.get_base_model() if _wrapped_by_peft(pipe) else pipe), tokenizer


def _wrapped_by_peft(pipe: Any) -> bool:
    """Whether the model inside is the one whose forward passes are to be followed."""
    if not any(kind.__name__ == "PeftModel" for kind in type(pipe).__mro__):
        return False
    # `generate` goes past the wrapper's forward pass; in old releases its forward pass goes past the hooks of
    # the model inside.
    return "self.model.forward(" not in inspect.getsource(type(pipe.base_model).forward)


def denoisers(pipe: Any) -> dict[str, nn.Module]:
    """Denoisers of a pipeline by component name, or `{"": module}` for a bare module.

    Raises:
        UsageError: `pipe` is neither.
        UnsupportedAttentionError: a pipeline without a denoiser.
    """
    pipe = opened(pipe)[0]
    if isinstance(pipe, nn.Module):
        return {"": unwrap(pipe)}
    components = getattr(pipe, "components", None)
    if not isinstance(components, dict):
        raise UsageError(
            f"Got {type(pipe).__name__}, expected a pipeline of diffusers or transformers or a torch module. "
            "Load one with sinkscope.load(name_or_folder)."
        )
    found = {
        name: unwrap(components[name]) for name in DENOISERS if isinstance(components.get(name), nn.Module)
    }
    if not found:
        raise UnsupportedAttentionError(
            f"{type(pipe).__name__} has no denoiser (looked for {', '.join(DENOISERS)} among "
            f"{', '.join(components)}). "
            "Pass the module itself instead of the pipeline."
        )
    return found


def text_encoders(pipe: Any) -> dict[str, nn.Module]:
    """Text encoders of a pipeline by component name, in the order of the pipeline; empty for a bare
    module."""
    components = getattr(pipe, "components", None)
    if isinstance(pipe, nn.Module) or not isinstance(components, dict):
        return {}
    return {
        name: unwrap(part)
        for name, part in sorted(components.items())
        if name.startswith("text_encoder") and isinstance(part, nn.Module)
    }


def clean(name: str) -> str:
    """Module path without the marks `torch.compile` leaves in it."""
    return name.replace("_orig_mod.", "").removesuffix("._orig_mod")


def looks_like_attention(module: nn.Module) -> bool:
    """Whether a module is, by its class name, the one that makes an attention call."""
    kind = type(module).__name__
    return isinstance(module, nn.MultiheadAttention) or bool(
        _LOOKS.search(kind) and not _LOOKS_NOT.search(kind)
    )


def attention_modules(root: nn.Module) -> dict[str, nn.Module]:
    """Innermost attention-looking modules of a denoiser by path, in registration order."""
    looks = {clean(name): part for name, part in root.named_modules() if looks_like_attention(part)}
    return {
        name: part
        for name, part in looks.items()
        if not any(other != name and other.startswith(f"{name}." if name else "") for other in looks)
    }


def is_script(module: nn.Module) -> bool:
    """Whether a module is TorchScript, traced or scripted."""
    return isinstance(module, torch.jit.ScriptModule)


def forward_inputs(root: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a forward pass by parameter name.

    The class's own signature is read: offloading and other wrappers replace `forward` on the instance.

    Raises:
        TypeError: the arguments do not fit; the forward pass itself reports that better.
    """
    signature = inspect.signature(type(root).forward)
    inputs = dict(signature.bind(root, *args, **kwargs).arguments)
    for position, parameter in enumerate(signature.parameters.values()):
        if position == 0 or parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            inputs.pop(parameter.name, None)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            inputs.update(inputs.pop(parameter.name, {}))
    return inputs
