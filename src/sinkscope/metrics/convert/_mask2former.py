"""GenEval's detector: Mask2Former with a Swin transformer, from MMDetection to transformers.

Both layouts of MMDetection are read: that of version 2 (`attentions.0`, `ffns.0`) and that of version 3
(`cross_attn`, `self_attn`, `ffn`). Names written are those of the hub's checkpoints, which every version of
transformers reads. Two things are not renamings: fused query, key and value projections are split, and
patches are merged in another order of their four pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinkscope.errors import UsageError

from .._files import sha256
from ._common import Part, load_pickle, take, write_folder

RELEASED = ("743b7d99", "c9d0c4f2")
"""How the SHA-256 of the released files begins (MMDetection 2 and 3; their names end in it)."""
SWIN, PIXEL, HEAD = (
    "model.pixel_level_module.encoder.",
    "model.pixel_level_module.decoder.",
    "model.transformer_module.",
)
SWIN_HEAD_DIM, HEADS, POINT_LEVELS = 32, 8, 3
NO_OBJECT = 0.1
"""Loss weight of "nothing": a buffer of the model that inference never reads."""

_NAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"backbone\.patch_embed\.projection\.", SWIN + "embeddings.patch_embeddings.projection."),
    (r"backbone\.patch_embed\.norm\.", SWIN + "embeddings.norm."),
    (r"backbone\.norm(\d)\.", lambda m: f"{SWIN}hidden_states_norms.stage{int(m[1]) + 1}."),
    (r"backbone\.stages\.(\d+)\.downsample\.", SWIN + r"encoder.layers.\1.downsample."),
    (r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.", SWIN + r"encoder.layers.\1.blocks.\2."),
    (r"panoptic_head\.pixel_decoder\.input_convs\.(\d)\.conv\.", PIXEL + r"input_projections.\1.0."),
    (r"panoptic_head\.pixel_decoder\.input_convs\.(\d)\.gn\.", PIXEL + r"input_projections.\1.1."),
    (r"panoptic_head\.pixel_decoder\.level_encoding\.weight", PIXEL + "level_embed"),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.conv\.", PIXEL + "adapter_1.0."),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.gn\.", PIXEL + "adapter_1.1."),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.conv\.", PIXEL + "layer_1.0."),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.gn\.", PIXEL + "layer_1.1."),
    (r"panoptic_head\.pixel_decoder\.mask_feature\.", PIXEL + "mask_projection."),
    (r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.", PIXEL + r"encoder.layers.\1."),
    (r"panoptic_head\.transformer_decoder\.layers\.(\d+)\.", HEAD + r"decoder.layers.\1."),
    (r"panoptic_head\.transformer_decoder\.post_norm\.", HEAD + "decoder.layernorm."),
    (r"panoptic_head\.query_embed\.", HEAD + "queries_embedder."),
    (r"panoptic_head\.query_feat\.", HEAD + "queries_features."),
    (r"panoptic_head\.level_embed\.", HEAD + "level_embed."),
    (r"panoptic_head\.cls_embed\.", "class_predictor."),
    (
        r"panoptic_head\.mask_embed\.(\d)\.",
        lambda m: f"{HEAD}decoder.mask_predictor.mask_embedder.{int(m[1]) // 2}.0.",
    ),
]  # fmt: skip
_SWIN_BLOCK = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.w_msa.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "attn.w_msa.proj.": "attention.output.dense.",
    "ffn.layers.0.0.": "intermediate.dense.",
    "ffn.layers.1.": "output.dense.",
}
_FFN = {
    "ffns.0.layers.0.0.": "fc1.", "ffns.0.layers.1.": "fc2.",
    "ffn.layers.0.0.": "fc1.", "ffn.layers.1.": "fc2.",
}  # fmt: skip
_PIXEL_LAYER = _FFN | {
    "attentions.0.": "self_attn.", "self_attn.": "self_attn.",
    "norms.0.": "self_attn_layer_norm.", "norms.1.": "final_layer_norm.",
}  # fmt: skip
_HEAD_LAYER = _FFN | {
    "attentions.0.attn.": "cross_attn.", "cross_attn.attn.": "cross_attn.",
    "attentions.1.attn.": "self_attn.", "self_attn.attn.": "self_attn.",
    "norms.0.": "cross_attn_layer_norm.", "norms.1.": "self_attn_layer_norm.",
    "norms.2.": "final_layer_norm.",
}  # fmt: skip


def convert(sources: Sequence[Path], target: Path) -> None:
    """Write `target` from the released file."""
    path = sources[0]
    state = load_pickle(path)
    for key in ("backbone.patch_embed.projection.weight", "panoptic_head.cls_embed.weight"):
        take(state, key, path, "MMDetection's Mask2Former with a Swin backbone")
    config = config_of(state)
    released = sha256([path])[:8] in RELEASED
    write_folder(
        target, {"": Part(rename(state), config)}, {"metric": "geneval", "released": released}, [path]
    )


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of MMDetection under the names of transformers.

    Raises:
        UsageError: A tensor that this architecture does not have.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.endswith("relative_position_index"):  # derived from the window size
            out |= _renamed(name, value.float())
    kinds = out["class_predictor.weight"].shape[0]
    out["criterion.empty_weight"] = torch.tensor([1.0] * (kinds - 1) + [NO_OBJECT])
    return out


def _renamed(name: str, value: Tensor) -> dict[str, Tensor]:
    for pattern, prefix in _NAMES:
        if match := re.match(pattern, name):
            start = match.expand(prefix) if isinstance(prefix, str) else prefix(match)
            return _inner(start, name[match.end() :], value, name)
    raise _unknown(name)


def _inner(start: str, rest: str, value: Tensor, name: str) -> dict[str, Tensor]:
    if name.startswith("backbone.") and ".blocks." in name:
        if rest.startswith("attn.w_msa.qkv."):
            return _split(f"{start}attention.self.", ("query", "key", "value"), rest[15:], value)
        return {start + _by(_SWIN_BLOCK, rest, name): value}
    if ".downsample." in name:
        return {start + rest: _merge_order(value)}
    if ".encoder.layers." in name:
        return {start + _by(_PIXEL_LAYER, rest, name): value}
    if ".transformer_decoder.layers." in name:
        inner = _by(_HEAD_LAYER, rest, name)
        if inner.startswith("self_attn.in_proj_"):
            return _split(f"{start}self_attn.", ("q_proj", "k_proj", "v_proj"), inner[18:], value)
        return {start + inner: value}
    return {start + rest: value}


def _by(names: Mapping[str, str], rest: str, name: str) -> str:
    for old, new in names.items():
        if rest.startswith(old):
            return new + rest[len(old) :]
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    return UsageError(
        f"Tensor {name!r} is not part of Mask2Former with a Swin backbone as MMDetection 2 or 3 has it. Give "
        "the released checkpoint of mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco."
    )


def _split(start: str, names: Sequence[str], kind: str, value: Tensor) -> dict[str, Tensor]:
    parts = value.chunk(len(names))
    return {f"{start}{part_name}.{kind}": part.clone() for part_name, part in zip(names, parts, strict=True)}


def _merge_order(value: Tensor) -> Tensor:
    """Last axis from (channel, row, column) to (column, row, channel) of the four merged pixels."""
    shape, channels = value.shape, value.shape[-1] // 4
    return value.reshape(*shape[:-1], channels, 2, 2).movedim((-3, -2, -1), (-1, -2, -3)).reshape(shape)


def config_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A `Mask2FormerConfig` as a dictionary, its sizes read off the tensors."""
    head, layer = "panoptic_head.", "panoptic_head.transformer_decoder.layers."
    width = state["backbone.patch_embed.projection.weight"].shape[0]
    depths = _count(state, r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.norm1\.weight")
    table = next(value for name, value in state.items() if name.endswith("relative_position_bias_table"))
    window = (round(table.shape[0] ** 0.5) + 1) // 2
    stages = range(len(depths))
    kinds = state[head + "cls_embed.weight"].shape[0] - 1
    fc = r"ffns?(?:\.0)?\.layers\.0\.0\.weight"
    return {
        "model_type": "mask2former",
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "backbone_config": {
            "model_type": "swin",
            "embed_dim": width,
            "depths": [depths[stage] for stage in stages],
            "num_heads": [max(1, width * 2**stage // SWIN_HEAD_DIM) for stage in stages],
            "window_size": window,
            "image_size": 224,
            "drop_path_rate": 0.0,
            "out_features": [f"stage{stage + 1}" for stage in stages],
        },
        "feature_size": state[head + "pixel_decoder.mask_feature.weight"].shape[1],
        "mask_feature_size": state[head + "pixel_decoder.mask_feature.weight"].shape[0],
        "hidden_dim": state[head + "query_embed.weight"].shape[1],
        "num_queries": state[head + "query_embed.weight"].shape[0],
        "num_attention_heads": HEADS,
        "encoder_layers": len(
            _count(state, r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\.norms\.(0)\.weight")
        ),
        "encoder_feedforward_dim": _first(state, r"panoptic_head\.pixel_decoder\.encoder\.layers\.0\." + fc),
        # transformers counts the prediction before the first layer.
        "decoder_layers": len(_count(state, re.escape(layer) + r"(\d+)\.norms\.(0)\.weight")) + 1,
        "dim_feedforward": _first(state, re.escape(layer) + r"0\." + fc),
        "dropout": 0.0,
        "id2label": {str(kind): str(kind) for kind in range(kinds)},
        "label2id": {str(kind): kind for kind in range(kinds)},
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> dict[int, int]:
    """First group -> how many tensors match with it."""
    found: dict[int, int] = {}
    for name in state:
        if match := re.fullmatch(pattern, name):
            found[int(match[1])] = found.get(int(match[1]), 0) + 1
    return found


def _first(state: Mapping[str, Tensor], pattern: str) -> int:
    for name, value in state.items():
        if re.fullmatch(pattern, name):
            return int(value.shape[0])
    raise UsageError(
        "The checkpoint has no feed-forward layers by the names of MMDetection 2 or 3. Give the released "
        "checkpoint of mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco."
    )
