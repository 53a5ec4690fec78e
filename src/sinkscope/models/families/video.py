"""Video models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from . import _video_spans as spans
from ._family import Family

if TYPE_CHECKING:
    from .._call import Kind

_CROSS: tuple[tuple[str, Kind], ...] = (("*.attn1", "self"), ("*.attn2", "cross"))
_T5 = (("t5", ("text_encoder",)),)
_LLAMA = (("llama", ("text_encoder",)),)
_CLIP = (("clip", ("text_encoder",)),)

_WAN = Family(
    stacks=("blocks",),
    kinds=_CROSS,
    visual="video",
    latents="cfhw",
    text=_T5,
    rows=("cond", "uncond"),
    spans=spans.wan,
)

VIDEO: dict[str, Family] = {
    "CogVideoXTransformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "joint"),),
        visual="video",
        latents="fchw",
        joint=("text", "video"),
        text=_T5,
    ),
    "WanTransformer3DModel": _WAN,
    "SkyReelsV2Transformer3DModel": _WAN,
    # Blocks beside the stack add the control to the video.
    "WanVACETransformer3DModel": _WAN,
    "ChronoEditTransformer3DModel": _WAN,
    "WanAnimateTransformer3DModel": replace(
        _WAN, kinds=(("face_adapter.*", "cross"), *_CROSS), spans=spans.animated
    ),
    "AnyFlowTransformer3DModel": replace(_WAN, latents="fchw", rows=("uncond", "cond"), spans=spans.anyflow),
    "HeliosTransformer3DModel": replace(_WAN, spans=spans.helios),
    "HunyuanVideoTransformer3DModel": Family(
        stacks=("transformer_blocks", "single_transformer_blocks"),
        kinds=(("context_embedder.*", "self"), ("*.attn", "joint")),
        visual="video",
        latents="cfhw",
        joint=("video", "text"),
        text=_LLAMA,
        rows=("cond", "uncond"),
        spans=spans.refined,
        # The system's part of the chat is cut off behind the encoder.
        taken="last",
    ),
    "HunyuanVideo15Transformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("context_embedder.*", "self"), ("*.attn", "joint")),
        visual="video",
        latents="cfhw",
        joint=("video", "image", "text"),
        spans=spans.valid_first,
    ),
    "HunyuanVideoFramepackTransformer3DModel": Family(
        stacks=("transformer_blocks", "single_transformer_blocks"),
        kinds=(("context_embedder.*", "self"), ("*.attn", "joint")),
        visual="video",
        latents="cfhw",
        joint=("history", "video", "image", "text"),
        text=_LLAMA,
        rows=("cond", "uncond"),
        spans=spans.framepack,
        taken=spans.behind_the_chat,
    ),
    "MotifVideoTransformer3DModel": Family(
        stacks=("transformer_blocks", "single_transformer_blocks"),
        kinds=(("*.cross_attn", "cross"), ("*.attn", "joint")),
        visual="video",
        latents="cfhw",
        joint=("video", "image", "text"),
        text=_T5,
        spans=spans.motif,
        by_block=True,
    ),
    "MiniMaxH3Transformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("token_refiner.*", "self"), ("*.attn", "joint")),
        visual="video",
        joint=("text", "audio", "video"),
        spans=spans.packed,
    ),
    "Kandinsky6Transformer3DModel": Family(
        stacks=("visual_transformer_blocks",),
        kinds=(("*.self_attention", "self"), ("*.cross_attention", "cross"), ("*cross_attention", "cross")),
        visual="video",
        latents="fhwc",
        text=(("qwen", ("text_encoder",)),),
        rows=("cond", "uncond"),
        spans=spans.kandinsky6,
        taken="last",
    ),
    "Kandinsky5Transformer3DModel": Family(
        stacks=("visual_transformer_blocks",),
        kinds=(("*.self_attention", "self"), ("*.cross_attention", "cross")),
        visual="video",
        latents="fhwc",
        text=(("qwen", ("text_encoder",)),),
        rows=("cond", "uncond"),
        spans=spans.refined,
        # The template's part before the prompt is cut off behind the encoder.
        taken="last",
    ),
    "LTXVideoTransformer3DModel": Family(
        stacks=("transformer_blocks",), kinds=_CROSS, visual="video", text=_T5
    ),
    "LTX2VideoTransformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "self"), ("*.audio_attn1", "self"), ("transformer_blocks.*", "cross")),
        visual="video",
        # Connectors put the words first and registers in the place of padding: no token stands for sure.
        text=(("text", ()),),
        spans=spans.two_streams,
    ),
    "CosmosTransformer3DModel": Family(
        stacks=("transformer_blocks",), kinds=_CROSS, visual="video", latents="cfhw", text=_T5
    ),
    "EasyAnimateTransformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "joint"),),
        visual="video",
        latents="cfhw",
        joint=("text", "video"),
    ),
    "MochiTransformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("time_embed.pooler", "cross"), ("*.attn1", "joint")),
        visual="video",
        latents="cfhw",
        joint=("video", "text"),
        text=_T5,
        spans=spans.mochi,
    ),
    "AllegroTransformer3DModel": Family(
        stacks=("transformer_blocks",), kinds=_CROSS, visual="video", latents="cfhw", text=_T5
    ),
    "LatteTransformer3DModel": Family(
        stacks=("transformer_blocks", "temporal_transformer_blocks"),
        kinds=(("temporal_transformer_blocks.*", "temporal"), *_CROSS),
        alternate=("transformer_blocks", "temporal_transformer_blocks"),
        visual="video",
        latents="cfhw",
        text=_T5,
    ),
    "ConsisIDTransformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "joint"), ("*", "cross")),
        visual="video",
        latents="fchw",
        joint=("text", "video"),
        text=_T5,
    ),
    "SanaVideoTransformer3DModel": Family(
        stacks=("transformer_blocks",), kinds=_CROSS, visual="video", latents="cfhw"
    ),
    "UNet3DConditionModel": Family(
        stacks=("transformer_in", "down_blocks", "mid_block", "up_blocks"),
        # Both attentions of a temporal block are over time: its "attn2" is no cross-attention.
        kinds=(("transformer_in.*", "temporal"), ("*.temp_attentions.*", "temporal"), *_CROSS),
        alternate=("attentions", "temp_attentions"),
        visual="video",
        latents="cfhw",
        text=_CLIP,
    ),
    "I2VGenXLUNet": Family(
        stacks=("transformer_in", "down_blocks", "mid_block", "up_blocks"),
        kinds=(
            ("image_latents_temporal_encoder.*", "temporal"),
            ("transformer_in.*", "temporal"),
            ("*.temp_attentions.*", "temporal"),
            *_CROSS,
        ),
        alternate=("attentions", "temp_attentions"),
        visual="video",
        latents="cfhw",
        text=_CLIP,
        spans=spans.i2vgen,
    ),
    "UNetMotionModel": Family(
        stacks=("down_blocks", "mid_block", "up_blocks"),
        # Both attentions of a motion module are over time: its "attn2" is no cross-attention.
        kinds=(("*.motion_modules.*", "temporal"), *_CROSS),
        alternate=("attentions", "motion_modules"),
        visual="video",
        latents="cfhw",
        text=_CLIP,
    ),
    "UNetSpatioTemporalConditionModel": Family(
        stacks=("down_blocks", "mid_block", "up_blocks"),
        kinds=(("*.temporal_transformer_blocks.*.attn1", "temporal"), *_CROSS),
        alternate=("transformer_blocks", "temporal_transformer_blocks"),
        visual="video",
        latents="fchw",
        spans=spans.still,
    ),
}
