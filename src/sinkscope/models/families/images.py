"""Image models."""

from __future__ import annotations

from ._family import Family

_UNET = Family(
    stacks=("down_blocks", "mid_block", "up_blocks"),
    kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
    text=(("clip", ("text_encoder", "text_encoder_2")),),
)

IMAGES: dict[str, Family] = {
    "SD3Transformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn", "joint"), ("*.attn2", "self")),
        joint=("image", "text"),
        text=(("clip", ("text_encoder", "text_encoder_2")), ("t5", ("text_encoder_3",))),
    ),
    "FluxTransformer2DModel": Family(
        stacks=("transformer_blocks", "single_transformer_blocks"),
        kinds=(("*.attn", "joint"),),
        joint=("text", "image"),
        text=(("t5", ("text_encoder_2",)),),
    ),
    "PixArtTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
        text=(("t5", ("text_encoder",)),),
    ),
    "UNet2DConditionModel": _UNET,
}
