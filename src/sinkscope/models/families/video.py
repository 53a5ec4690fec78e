"""Video models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .._spans import Span, Spans, chain
from ._family import Family

if TYPE_CHECKING:
    from .._call import AttentionCall, Kind
    from .._tracker import Evaluation

_CROSS: tuple[tuple[str, Kind], ...] = (("*.attn1", "self"), ("*.attn2", "cross"))
_T5 = (("t5", ("text_encoder",)),)


def _wan(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Image-to-video models attend to the picture's features in a call of their own, before the text."""
    keys, queries = call.k.shape[2], chain(("video", call.q.shape[2]))
    if call.site.kind != "cross" or evaluation.inputs.get("encoder_hidden_states_image") is None:
        return None
    return Spans(chain(("text" if call.site.index else "image", keys)), queries)


def _mochi(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """One call per sample: the video, then as many text tokens as are no padding. The pooler asks with the
    mean of the text, which stands before the text."""
    if call.site.layer is None:
        return Spans(chain(("pooled", 1), ("text", call.k.shape[2] - 1)), chain(("pooled", 1)))
    mask = evaluation.inputs["encoder_attention_mask"]
    text = int(mask[call.site.index].count_nonzero())
    tokens = chain(("video", call.k.shape[2] - text), ("text", text))
    return Spans(tokens, tokens)


def _refined(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """The text attends to itself before the blocks."""
    if call.site.layer is not None:
        return None
    text = chain(("text", call.k.shape[2]))
    return Spans(text, text)


def _sorted(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """HunyuanVideo 1.5 puts the tokens that are no padding first, row by row: picture, ByT5, Qwen."""
    refined = _refined(call, evaluation)
    inputs = evaluation.inputs
    if refined is not None or "encoder_attention_mask_2" not in inputs:
        return refined
    qwen, byt5 = (inputs[f"encoder_attention_mask{end}"].bool().sum(1).tolist() for end in ("", "_2"))
    pictures, texts = inputs["image_embeds"], inputs["encoder_hidden_states_2"].shape[1]
    image = pictures.shape[1] if bool(pictures.any()) else 0
    padded = image + texts + inputs["encoder_hidden_states"].shape[1]
    if image == 0:
        padded += pictures.shape[1]
    video = call.k.shape[2] - padded
    rows = []
    for first, second in zip(byt5, qwen, strict=True):
        start = video + image
        rows.append(
            [
                *chain(("video", video), ("image", image)),
                Span("text", start, start + first),
                Span("text", start + first, start + first + second, texts),
                Span("padding", start + first + second, call.k.shape[2]),
            ]
        )
    return Spans(rows, rows)


def _still(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Cross-attention sees one token, the features of the picture that shall move."""
    if call.site.kind != "cross":
        return None
    return Spans(chain(("image", call.k.shape[2])), chain(("video", call.q.shape[2])))


_SIDES = {
    "attn1": ("video", "video"),
    "attn2": ("video", "text"),
    "audio_attn1": ("audio", "audio"),
    "audio_attn2": ("audio", "text"),
    "audio_to_video_attn": ("video", "audio"),
    "video_to_audio_attn": ("audio", "video"),
}
"""What asks and what is asked in each attention of a block of LTX-2."""


def _two_streams(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Video and audio with attention of their own, to their text and to each other."""
    asking, asked = _SIDES[call.site.name.rpartition(".")[2]]
    return Spans(chain((asked, call.k.shape[2])), chain((asking, call.q.shape[2])))


def _audio(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """One token for the durations stands before the audio, and two more behind the text."""
    globals_ = evaluation.inputs.get("global_hidden_states")
    first = int(globals_.shape[1]) if isinstance(globals_, Tensor) else 0
    queries, keys = chain(("global", first), ("audio", call.q.shape[2] - first)), call.k.shape[2]
    if call.site.kind == "self":
        return Spans(queries, queries)
    known = evaluation.prompts.ids.get("text_encoder") if evaluation.prompts else None
    text = min(known[0].ids.shape[1], keys) if known else keys
    return Spans(chain(("text", text), ("duration", keys - text)), queries)


_WAN = Family(
    stacks=("blocks",),
    kinds=_CROSS,
    visual="video",
    latents="cfhw",
    text=_T5,
    rows=("cond", "uncond"),
    spans=_wan,
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
    "HunyuanVideoTransformer3DModel": Family(
        stacks=("transformer_blocks", "single_transformer_blocks"),
        kinds=(("context_embedder.*", "self"), ("*.attn", "joint")),
        visual="video",
        latents="cfhw",
        joint=("video", "text"),
        text=(("llama", ("text_encoder",)),),
        rows=("cond", "uncond"),
        spans=_refined,
        # The system's part of the chat is cut off behind the encoder.
        taken="last",
    ),
    "HunyuanVideo15Transformer3DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("context_embedder.*", "self"), ("*.attn", "joint")),
        visual="video",
        latents="cfhw",
        joint=("video", "image", "text"),
        spans=_sorted,
    ),
    "Kandinsky5Transformer3DModel": Family(
        stacks=("visual_transformer_blocks",),
        kinds=(("*.self_attention", "self"), ("*.cross_attention", "cross")),
        visual="video",
        latents="fhwc",
        rows=("cond", "uncond"),
        spans=_refined,
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
        spans=_two_streams,
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
        spans=_mochi,
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
    "UNetMotionModel": Family(
        stacks=("down_blocks", "mid_block", "up_blocks"),
        # Both attentions of a motion module are over time: its "attn2" is no cross-attention.
        kinds=(("*.motion_modules.*", "temporal"), *_CROSS),
        alternate=("attentions", "motion_modules"),
        visual="video",
        latents="cfhw",
        text=(("clip", ("text_encoder",)),),
    ),
    "UNetSpatioTemporalConditionModel": Family(
        stacks=("down_blocks", "mid_block", "up_blocks"),
        kinds=(("*.temporal_transformer_blocks.*.attn1", "temporal"), *_CROSS),
        alternate=("transformer_blocks", "temporal_transformer_blocks"),
        visual="video",
        latents="fchw",
        spans=_still,
    ),
    "StableAudioDiTModel": Family(
        stacks=("transformer_blocks",), kinds=_CROSS, visual="audio", text=_T5, spans=_audio
    ),
}
