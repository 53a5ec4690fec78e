"""The parts of a language, vision or vision-language model, read off its modules.

A tower is the part of a model that turns one kind of input into hidden states: the language model, the vision
model inside a vision-language model, or a whole vision transformer. Models of transformers say themselves
what they read (`main_input_name`); models of timm and the like are told by their patch embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

_SPECIAL: Mapping[str, str] = {
    "cls_token": "cls",
    "class_token": "cls",
    "class_embedding": "cls",
    "distillation_token": "distillation",
    "dist_token": "distillation",
    "register_tokens": "register",
    "reg_token": "register",
    "storage_tokens": "register",
}
"""Learned tokens that vision transformers put before the patches, by the names of their parameters; this is
also their order."""

SINK_LOGIT = "sink_logit"
"""Segment of the key that stands for a learned sink logit."""

_BESIDE = re.compile(r"(^|\.)(head|attn_pool|pooler|\w*(resampler|projector|connector|qformer))\.")
_PATCHES = ("patch_embed", "conv_proj")


class Tower(NamedTuple):
    """One part of a model."""

    name: str
    """Module path inside the model; "" for all of it."""
    module: nn.Module
    reads: Literal["text", "image"]


def tower_of(root: nn.Module, name: str) -> Tower | None:
    """The tower that an attention module belongs to; None where the model does not say.

    Args:
        root: The model.
        name: Path of the attention module in it.
    """
    chain = [
        (path, part)
        for path, part in _ancestors(root, name)
        if getattr(part, "main_input_name", None) in ("input_ids", "pixel_values")
    ]
    if not chain:
        return Tower("", root, "image") if any(hasattr(root, patches) for patches in _PATCHES) else None
    if getattr(getattr(root, "config", None), "is_encoder_decoder", False):
        return None
    # Encoders nested in a vision model are no towers of their own: its learned tokens lie outside of them.
    reads = [part.main_input_name for _, part in chain]
    if reads[-1] == "input_ids":
        return Tower(*chain[-1], "text")
    last = max((place for place, read in enumerate(reads) if read == "input_ids"), default=-1)
    return Tower(*chain[last + 1], "image")


def _ancestors(root: nn.Module, name: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = [("", root)]
    for step in name.split(".")[:-1]:
        path, part = found[-1]
        inner = getattr(part, step, None)
        inner = getattr(inner, "_orig_mod", inner)
        if not isinstance(inner, nn.Module):
            break
        found.append((f"{path}.{step}" if path else step, inner))
    return found


def beside_the_stack(root: nn.Module, name: str) -> bool:
    """Whether an attention module stands outside of the numbered blocks: pooling heads, connectors, and the
    vision part of a model that has a language part."""
    if _BESIDE.search(f"{name}."):
        return True
    tower = tower_of(root, name)
    return tower is not None and tower.reads == "image" and reads_text(root)


def reads_text(root: nn.Module) -> bool:
    """Whether some part of a model reads token ids."""
    return any(getattr(part, "main_input_name", None) == "input_ids" for part in root.modules())


def special_tokens(tower: Tower) -> tuple[str, ...]:
    """Segment of each learned token before the patches, in their order."""
    counts: dict[str, int] = {}
    for name, parameter in tower.module.named_parameters():
        segment = _SPECIAL.get(name.rpartition(".")[2])
        if segment is not None:
            counts.setdefault(segment, parameter.shape[-2] if parameter.dim() > 1 else 1)
    order = list(dict.fromkeys(_SPECIAL.values()))
    return tuple(segment for segment in order for _ in range(counts.get(segment, 0)))


def patch_grid(tower: Tower, inputs: Mapping[str, Any], count: int) -> list[tuple[int, int]] | None:
    """Row and column of each of `count` patches, None where the size of the picture does not tell."""
    named = inputs.get("pixel_values", inputs.get("x"))
    pixels = named if isinstance(named, Tensor) and named.dim() >= 4 else None
    sizes = _patch_size(tower.module)
    if pixels is None or sizes is None:
        return None
    rows, columns = pixels.shape[-2] // sizes[0], pixels.shape[-1] // sizes[1]
    return [divmod(patch, columns) for patch in range(count)] if rows * columns == count else None


def _patch_size(module: nn.Module) -> tuple[int, int] | None:
    holders = (getattr(module, "config", None), getattr(module, "patch_embed", None), module)
    for holder in holders:
        size = getattr(holder, "patch_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (tuple, list)) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def segment_counts(root: nn.Module, name: str, kind: str, keys: int) -> dict[str, int]:
    """How many of a call's keys lie in each segment; empty where only the running model tells."""
    tower = tower_of(root, name)
    if tower is None:
        return {}
    if tower.reads == "text":
        return {"text": keys} if kind in ("self", "causal") else {}
    special = special_tokens(tower)
    if len(special) >= keys or (special and kind == "cross"):
        return {}
    return {**{segment: special.count(segment) for segment in special}, "image": keys - len(special)}


def key_segments(root: nn.Module, name: str, kind: str) -> tuple[str, ...]:
    """Names of the key segments of a site in their order, without running the model."""
    tower = tower_of(root, name)
    if tower is None or kind not in ("self", "causal"):
        return ()
    if tower.reads == "text":
        learned = getattr(_ancestors(root, f"{name}.")[-1][1], "sinks", None)
        return ("text",) if learned is None else ("text", SINK_LOGIT)
    return (*dict.fromkeys(special_tokens(tower)), "image")
