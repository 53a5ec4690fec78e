"""What can be refused before a model runs: parts that hide their calls, shard their keys or skip steps.

What cannot be known beforehand is left to the audit in `_coverage`, after the forward pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import (
    CacheActiveError,
    DistributedAttentionError,
    LinearAttentionError,
    ScriptModuleError,
    UnsupportedAttentionError,
)
from ._denoiser import attention_modules, clean, is_script

_CACHES = {
    "PyramidAttentionBroadcastHook": "Pyramid Attention Broadcast",
    "FasterCacheDenoiserHook": "FasterCache",
    "FasterCacheBlockHook": "FasterCache",
    "FBCHeadBlockHook": "FirstBlockCache",
    "FBCBlockHook": "FirstBlockCache",
    "MagCacheHeadHook": "MagCache",
    "MagCacheBlockHook": "MagCache",
    "SeaCacheLeaderBlockHook": "SeaCache",
    "SeaCacheBlockHook": "SeaCache",
    "TaylorSeerCacheHook": "TaylorSeer",
}
"""Hooks of diffusers that answer for a block or an attention module on some steps. Its text K/V cache is not
among them: there the softmax runs every time."""

_SEQUENCE_MODELS = re.compile(r"Mamba|SSM|Retention|R[Ww][Kk][Vv]|Delta(Net|Rule)|Hyena|LinearAttention")


def preflight(roots: Mapping[str, nn.Module]) -> None:
    """Refuse models whose calls cannot be seen or would be partial.

    Raises:
        ScriptModuleError: TorchScript parts, or a graph without modules.
        DistributedAttentionError: keys, heads or rows are split over devices.
        CacheActiveError: a cache skips attention on some steps.
        LinearAttentionError: a model that mixes tokens without softmax attention.
        UnsupportedAttentionError: no attention module at all.
    """
    for root in roots.values():
        for name, module in root.named_modules():
            _refuse_script(name, module)
            _refuse_parallel(name, module)
        _refuse_cache(root)
    if not any(attention_modules(root) for root in roots.values()):
        for root in roots.values():
            _refuse_by_kind(root)


def who(name: str, module: nn.Module) -> str:
    """How errors name a module: path, class and, where it has one, the processor."""
    processor = getattr(module, "processor", None)
    with_processor = f", {type(processor).__name__}" if processor is not None else ""
    return f"{name or 'the model'} ({type(module).__name__}{with_processor})"


def hooks_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and object of the hooks that diffusers put on a module."""
    registry = vars(module).get("_diffusers_hook")
    yield from getattr(registry, "hooks", {}).items()


def _refuse_script(name: str, module: nn.Module) -> None:
    if is_script(module):
        raise ScriptModuleError(
            f"{who(clean(name), module)} is TorchScript, which hides its attention calls. "
            "Use the original module instead of the traced or scripted one."
        )


def _refuse_parallel(name: str, module: nn.Module) -> None:
    if getattr(module, "_parallel_config", None) is not None:
        raise DistributedAttentionError(
            f"{who(clean(name), module)} runs with parallel attention: keys are sharded over devices, so "
            "mass would be partial. Load the model without enable_parallelism(...)."
        )
    for hook, _ in hooks_of(module):
        if hook.startswith(("cp_input", "cp_output")):
            raise DistributedAttentionError(
                f"{who(clean(name), module)} has the context-parallel hook {hook!r} of diffusers: keys are "
                "sharded over devices, so mass would be partial. Load the model without context parallelism."
            )
    if isinstance(module, nn.DataParallel):
        raise DistributedAttentionError(
            f"{who(clean(name), module)} runs copies of the model in threads of their own, which a session "
            "does not hear. Pass the module inside it (.module), one process per device."
        )


def _refuse_cache(root: nn.Module) -> None:
    found = {
        _CACHES[type(hook).__name__]: clean(name)
        for name, module in root.named_modules()
        for _, hook in hooks_of(module)
        if type(hook).__name__ in _CACHES
    }
    if found:
        cache, name = next(iter(found.items()))
        raise CacheActiveError(
            f"{cache} is active on {type(root).__name__} (at {name or 'the whole model'}) and skips "
            "attention on some steps, which would be missing. Call disable_cache() on it first, or pass "
            "strict=False to go without those steps."
        )


def _refuse_by_kind(root: nn.Module) -> None:
    """Say why a model without attention modules has none."""
    kind = type(root).__name__
    if isinstance(root, torch.fx.GraphModule):
        raise ScriptModuleError(
            f"{kind} is an exported graph: its attention calls belong to no module, so no site could be "
            "named. Use the original module instead of the exported one."
        )
    for name, module in root.named_modules():
        if _SEQUENCE_MODELS.search(type(module).__name__):
            raise LinearAttentionError(
                f"{who(clean(name), module)} mixes tokens without softmax weights, and {kind} has no softmax "
                "attention beside it. There are no sinks to look at."
            )
    raise UnsupportedAttentionError(
        f"{kind} has no attention module, expected softmax attention. There is nothing to look at."
    )
