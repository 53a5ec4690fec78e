"""Video models."""

from __future__ import annotations

from ._family import Family

_CROSS = (("*.attn1", "self"), ("*.attn2", "cross"))
_T5 = (("t5", ("text_encoder",)),)

VIDEO: dict[str, Family] = {
    "CogVideoXTransformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "joint"),),
        visual="video",
        latents="fchw",
        joint=("text", "video"),
        text=_T5,
    ),
    "WanTransformer3DModel": Family(
        stacks=("blocks",),
        kinds=_CROSS,
        visual="video",
        latents="cfhw",
        text=_T5,
        rows=("cond", "uncond"),
    ),
    "LTXVideoTransformer3DModel": Family(
        stacks=("transformer_blocks",), kinds=_CROSS, visual="video", text=_T5
    ),
    "AllegroTransformer3DModel": Family(
        stacks=("transformer_blocks",), kinds=_CROSS, visual="video", latents="cfhw", text=_T5
    ),
}
