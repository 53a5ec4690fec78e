"""Image models."""

from __future__ import annotations

from . import _image_spans as spans
from . import _recent_spans as recent
from ._family import Family

_ENCODER = (("text", ("text_encoder",)),)
_CLIP = (("clip", ("text_encoder", "text_encoder_2")),)
_FLUX = ("transformer_blocks", "single_transformer_blocks")

_FLUX_LIKE = Family(stacks=_FLUX, kinds=(("*.attn", "joint"),), joint=("text", "image"))

IMAGES: dict[str, Family] = {
    "SD3Transformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn", "joint"), ("*.attn2", "self")),
        joint=("image", "text"),
        text=(("clip", ("text_encoder", "text_encoder_2")), ("t5", ("text_encoder_3",))),
    ),
    "FluxTransformer2DModel": Family(
        stacks=_FLUX,
        kinds=(("*.attn", "joint"),),
        joint=("text", "image"),
        text=(("t5", ("text_encoder_2",)),),
        spans=spans.with_references,
    ),
    "Flux2Transformer2DModel": Family(
        stacks=_FLUX,
        kinds=(("*.attn", "joint"),),
        joint=("text", "image"),
        text=_ENCODER,
        spans=spans.with_references,
    ),
    "ChromaTransformer2DModel": Family(
        stacks=_FLUX, kinds=(("*.attn", "joint"),), joint=("text", "image"), text=_ENCODER
    ),
    "QwenImageTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn", "joint"),),
        joint=("text", "image"),
        text=_ENCODER,
        spans=spans.with_references,
        taken=spans.behind_the_template,
    ),
    "ZImageTransformer2DModel": Family(
        stacks=("layers",),
        kinds=(("layers.*", "joint"), ("*", "self")),
        joint=("image", "text"),
        text=_ENCODER,
        rows=("cond", "uncond"),
        spans=spans.z_image,
        taken=spans.attended,
    ),
    "Lumina2Transformer2DModel": Family(
        stacks=("layers",),
        kinds=(("layers.*", "joint"), ("*", "self")),
        joint=("text", "image"),
        text=_ENCODER,
        spans=spans.lumina2,
    ),
    "PixArtTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
        text=(("t5", ("text_encoder",)),),
    ),
    "HiDreamImageTransformer2DModel": Family(
        stacks=("double_stream_blocks", "single_stream_blocks"),
        kinds=(("*", "joint"),),
        joint=("image", "text"),
        text=(
            ("t5", ("text_encoder_3",)),
            ("llama_last", ("text_encoder_4",)),
            ("llama_layer", ("text_encoder_4",)),
        ),
        spans=spans.hidream,
    ),
    "AuraFlowTransformer2DModel": Family(
        stacks=("joint_transformer_blocks", "single_transformer_blocks"),
        kinds=(("*.attn", "joint"),),
        joint=("register", "text", "image"),
        text=_ENCODER,
        spans=spans.auraflow,
    ),
    "CogView4Transformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "joint"),),
        joint=("text", "image"),
        text=_ENCODER,
    ),
    "HunyuanDiT2DModel": Family(
        stacks=("blocks",),
        kinds=(("*.attn1", "self"), ("*", "cross")),
        text=(("clip", ("text_encoder",)), ("t5", ("text_encoder_2",))),
        spans=spans.hunyuan,
    ),
    "SanaTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
        text=_ENCODER,
        taken=spans.first_and_last,
    ),
    "DiTTransformer2DModel": Family(
        stacks=("transformer_blocks",), kinds=(("*.attn1", "self"),), rows=("cond", "uncond")
    ),
    "CogView3PlusTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "joint"),),
        joint=("text", "image"),
        text=_ENCODER,
    ),
    "OvisImageTransformer2DModel": _FLUX_LIKE,
    "LongCatImageTransformer2DModel": _FLUX_LIKE,
    "BriaTransformer2DModel": _FLUX_LIKE,
    "HunyuanImageTransformer2DModel": Family(
        stacks=_FLUX,
        kinds=(("context_embedder.*", "self"), ("*.attn", "joint")),
        joint=("image", "text"),
        spans=spans.hunyuan_image,
    ),
    "ErnieImageTransformer2DModel": Family(
        stacks=("layers",), kinds=(("*", "joint"),), joint=("image", "text"), spans=spans.ernie
    ),
    "PRXTransformer2DModel": Family(
        stacks=("blocks",), kinds=(("*", "joint"),), joint=("text", "image"), text=_ENCODER, spans=spans.prx
    ),
    "LuminaNextDiT2DModel": Family(
        stacks=("layers",), kinds=(("*.attn1", "self"), ("*.attn2", "cross")), text=_ENCODER
    ),
    "StableCascadeUNet": Family(
        stacks=("down_blocks", "up_blocks"),
        kinds=(("*", "joint"),),
        joint=("image", "text", "pooled", "image_embed"),
        text=_ENCODER,
        spans=spans.cascade,
    ),
    "UNet2DConditionModel": Family(
        stacks=("down_blocks", "mid_block", "up_blocks"),
        kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
        joint=("image_embed", "image"),
        text=_CLIP,
        spans=spans.unet,
    ),
    "Flux3Transformer2DModel": Family(
        stacks=("txt_mode_blocks", "mode_blocks", "single_transformer_blocks"),
        kinds=(("single_transformer_blocks.*", "joint"), ("*", "self")),
        keys=(("mode_blocks.image_cond.*", ("reference",)),),
        joint=("text", "image"),
        text=_ENCODER,
        spans=recent.flux3,
    ),
    "QwenImage21Transformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn", "joint"),),
        joint=("text", "image"),
        text=_ENCODER,
        spans=recent.qwen_image21,
        taken=recent.no_pictures,
    ),
    "Krea2Transformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("transformer_blocks.*", "joint"), ("*", "self")),
        keys=(("*.layerwise_blocks.*", ("text_layer",)),),
        joint=("text", "image"),
        text=_ENCODER,
        spans=recent.krea2,
        taken=recent.behind_the_prefix,
    ),
    "GlmImageTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "joint"),),
        joint=("text", "image"),
        # Its encoder reads each quoted part of a prompt on its own: which ones are a row's is not known.
        text=(("text", ()),),
        spans=recent.glm_image,
    ),
    "Ideogram4Transformer2DModel": Family(
        stacks=("layers",),
        kinds=(("*", "joint"),),
        joint=("text", "image"),
        text=_ENCODER,
        spans=recent.ideogram4,
        taken="last",
    ),
    "BriaFiboTransformer2DModel": Family(
        stacks=_FLUX,
        kinds=(("*.attn", "joint"),),
        joint=("text", "image"),
        text=_ENCODER,
        taken=recent.every_token,
    ),
    "BriaFibo2Transformer2DModel": Family(
        stacks=("layers",),
        kinds=(("layers.*.attention", "joint"), ("*.cross_attention", "cross"), ("*", "self")),
        keys=(("perceiver.*.self_attention", ("gist",)),),
        joint=("gist", "image"),
        text=_ENCODER,
        spans=recent.fibo2,
    ),
    "NucleusMoEImageTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn", "joint"),),
        joint=("image", "text"),
        text=_ENCODER,
        spans=recent.image_asks,
    ),
    "OmniGenTransformer2DModel": Family(
        stacks=("layers",),
        kinds=(("*", "joint"),),
        joint=("text", "timestep", "image"),
        rows=("cond", "uncond"),
        spans=recent.omnigen,
    ),
    "JoyImageEditTransformer3DModel": Family(
        stacks=("double_blocks",), kinds=(("*", "joint"),), joint=("image", "text"), spans=recent.joyimage
    ),
    "JoyImageEditPlusTransformer3DModel": Family(
        stacks=("double_blocks",),
        kinds=(("*", "joint"),),
        joint=("image", "text"),
        spans=recent.joyimage_plus,
    ),
    "Kandinsky3UNet": Family(
        stacks=("down_blocks", "up_blocks"),
        kinds=(("*.attentions.0.attention", "self"), ("*", "cross")),
        last=("up_blocks.*.attentions.0",),
        text=_ENCODER,
        spans=recent.kandinsky3,
    ),
    "PriorTransformer": Family(
        stacks=("transformer_blocks",),
        kinds=(("*", "self"),),
        keys=(("*", ("text", "pooled", "timestep", "image_embed")),),
        visual="image_embed",
        text=_ENCODER,
        spans=recent.prior,
    ),
    "UNet2DModel": Family(stacks=("down_blocks", "mid_block", "up_blocks"), kinds=(("*", "self"),)),
    "UVit2DModel": Family(
        stacks=("down_block", "transformer_layers", "up_block"),
        kinds=(("transformer_layers.*.attn1", "self"), ("*", "cross")),
        text=_CLIP,
    ),
}
