"""Names of OpenAI's `clip` and of open_clip to those of `transformers.CLIPModel`.

Both packages share one layout: fused query, key and value projections, positions as bare tensors, and
projections that multiply from the right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_TOP = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    # The typing error is the library's.
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TURNED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_INNER = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TOWERS = {"transformer.resblocks.": "text_model", "visual.transformer.resblocks.": "vision_model"}


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names of `CLIPModel`; names that it has no use for are left out."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in _TOP:
            out[_TOP[name]] = value
        elif name in _TURNED:
            out[_TURNED[name]] = value.T
        else:
            out |= _block(name, value)
    return out


def _block(name: str, value: Tensor) -> dict[str, Tensor]:
    for start, tower in _TOWERS.items():
        if not name.startswith(start):
            continue
        index, _, inner = name.removeprefix(start).partition(".")
        layer = f"{tower}.encoder.layers.{index}"
        if inner.startswith("attn.in_proj_"):
            kind = inner.removeprefix("attn.in_proj_")
            parts = zip("qkv", torch.chunk(value, 3, dim=0), strict=True)
            return {f"{layer}.self_attn.{letter}_proj.{kind}": part for letter, part in parts}
        module, _, kind = inner.rpartition(".")
        if module in _INNER:
            return {f"{layer}.{_INNER[module]}.{kind}": value}
    return {}


def config_of(state: Mapping[str, Tensor], *, vision_heads: int, text_heads: int, act: str) -> dict[str, Any]:
    """Return a `CLIPConfig` as a dictionary; all sizes but the number of heads are read off the tensors.

    Args:
        state: In the layout of open_clip.
        vision_heads: Attention heads of the vision tower.
        text_heads: Attention heads of the text tower.
        act: "quick_gelu" (OpenAI) or "gelu" (LAION).
    """
    patch = state["visual.conv1.weight"]
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    vocabulary, text_width = state["token_embedding.weight"].shape

    def layers(start: str) -> int:
        return len({name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)})

    shared = {"hidden_act": act, "layer_norm_eps": 1e-5, "projection_dim": state["text_projection"].shape[1]}
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": shared["projection_dim"],
        "text_config": {
            **shared,
            "model_type": "clip_text_model",
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": layers("transformer.resblocks."),
            "num_attention_heads": text_heads,
            "max_position_embeddings": state["positional_embedding"].shape[0],
            # The last two words of the vocabulary; features are taken at the first end token.
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
        "vision_config": {
            **shared,
            "model_type": "clip_vision_model",
            "hidden_size": patch.shape[0],
            "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": layers("visual.transformer.resblocks."),
            "num_attention_heads": vision_heads,
            "image_size": grid * patch.shape[-1],
            "patch_size": patch.shape[-1],
        },
    }
