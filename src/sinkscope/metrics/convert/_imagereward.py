"""ImageReward v1.0: BLIP with a timm vision tower and a BERT, and an MLP (THUDM/ImageReward).

Files: `ImageReward.pt`, a dictionary of tensors, and `med_config.json`, the configuration of its text
encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sinkscope.errors import UsageError

from ._common import Part, load_pickle, take, tokenizer_files, write_folder

VISION, TEXT = "blip.visual_encoder.", "blip.text_encoder."
VISION_HEAD_DIM = 64
"""ViT-L/16: 1024 in 16 heads."""
_TOP = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_INNER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "hidden_act", "layer_norm_eps", "max_position_embeddings", "pad_token_id",
)  # fmt: skip


def convert(sources: Sequence[Path], target: Path, *, tokenizer: str) -> None:
    """Write `target` from the released weights and text configuration; `tokenizer` is a folder or hub id."""
    weights, med = sources
    files = tokenizer_files(tokenizer)
    asked = _read_med(med)
    state = load_pickle(weights)
    for key in (VISION + "cls_token", TEXT + "embeddings.word_embeddings.weight", "mlp.layers.7.weight"):
        take(state, key, weights, "an ImageReward checkpoint")
    vision = {name.removeprefix(VISION): value for name, value in state.items() if name.startswith(VISION)}
    text = {
        name.removeprefix(TEXT): value
        for name, value in state.items()
        if name.startswith(TEXT) and not name.endswith("position_ids")
    }
    head = {name: value for name, value in state.items() if name.startswith("mlp.layers.")}
    parts = {
        "vision_model": Part(rename_vision(vision), vision_config(vision)),
        "text_model": Part(text, text_config(asked, width=vision["cls_token"].shape[-1])),
        "": Part(head, None, "head.safetensors"),
    }
    write_folder(target, parts, {"metric": "imagereward", "version": "1.0"}, sources, files)


def _read_med(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is not readable JSON ({error}). Give the released med_config.json."
        ) from error
    if not isinstance(content, dict) or "hidden_size" not in content:
        raise UsageError(
            f"{path} is not the configuration of a text encoder. Give the released med_config.json."
        )
    return content


def rename_vision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm's vision transformer to those of `BlipVisionModel`."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in _TOP:
            out[_TOP[name]] = value
        elif name.startswith("blocks."):
            _, index, inner = name.split(".", 2)
            module, _, kind = inner.rpartition(".")
            out[f"encoder.layers.{index}.{_INNER[module]}.{kind}"] = value
    return out


def vision_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A `BlipVisionConfig` as a dictionary, its sizes read off the tensors."""
    patch = state["patch_embed.proj.weight"]
    grid = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    return {
        "model_type": "blip_vision_model",
        "hidden_size": patch.shape[0],
        "intermediate_size": state["blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        "num_attention_heads": patch.shape[0] // VISION_HEAD_DIM,
        "image_size": grid * patch.shape[-1],
        "patch_size": patch.shape[-1],
        "hidden_act": "gelu",
        # timm's vision transformer; the library's own default of 1e-5 moves scores by 1.6e-4.
        "layer_norm_eps": 1e-6,
    }


def text_config(med: Mapping[str, Any], *, width: int) -> dict[str, Any]:
    """A `BlipTextConfig` as a dictionary; `width` is that of the vision tower."""
    return {
        **{name: med[name] for name in _TEXT_KEYS if name in med},
        "model_type": "blip_text_model",
        "encoder_hidden_size": width,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        # Gives the model its cross-attention.
        "is_decoder": True,
    }
