"""Where the tokens of video models lie, for those whose streams' order and lengths do not tell."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING, Any

from .._spans import Span, Spans, chain, local_name, runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._call import AttentionCall
    from .._prompts import Captured
    from .._tracker import Evaluation


def wan(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Image-to-video models attend to the picture's features in a call of their own, before the text."""
    keys, queries = call.k.shape[2], chain(("video", call.q.shape[2]))
    if call.site.kind != "cross" or evaluation.inputs.get("encoder_hidden_states_image") is None:
        return None
    return Spans(chain(("text" if call.site.index else "image", keys)), queries)


def mochi(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """One call per sample: the video, then as many text tokens as are no padding. The pooler asks with the
    mean of the text, which stands before the text."""
    if call.site.layer is None:
        return Spans(chain(("pooled", 1), ("text", call.k.shape[2] - 1)), chain(("pooled", 1)))
    mask = evaluation.inputs["encoder_attention_mask"]
    text = int(mask[call.site.index].count_nonzero())
    tokens = chain(("video", call.k.shape[2] - text), ("text", text))
    return Spans(tokens, tokens)


def refined(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """The text attends to itself before the blocks."""
    if call.site.layer is not None:
        return None
    text = chain(("text", call.k.shape[2]))
    return Spans(text, text)


def valid_first(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """HunyuanVideo 1.5 puts the tokens that are no padding first, row by row: picture, ByT5, Qwen."""
    found = refined(call, evaluation)
    inputs = evaluation.inputs
    if found is not None or "encoder_attention_mask_2" not in inputs:
        return found
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


def still(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
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


def two_streams(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Video and audio with attention of their own, to their text and to each other."""
    asking, asked = _SIDES[call.site.name.rpartition(".")[2]]
    return Spans(chain((asked, call.k.shape[2])), chain((asking, call.q.shape[2])))


def anyflow(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Features of a picture stand before the text, in the same call."""
    image = evaluation.inputs.get("encoder_hidden_states_image")
    if call.site.kind != "cross" or image is None:
        return None
    keys = chain(("image", image.shape[1]), ("text", call.k.shape[2] - image.shape[1]))
    return Spans(keys, chain(("video", call.q.shape[2])))


def animated(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Wan Animate: adapters let each latent frame see how the face moves in it, and one learned vector behind
    that. The first latent frame is the picture of who shall move; no face is given for it."""
    if not local_name(call, evaluation).startswith("face_adapter"):
        return wan(call, evaluation)
    keys, batch = call.k.shape[2], max(1, len(evaluation.rows))
    none, moving = chain(("padding", keys)), chain(("face", keys - 1), ("register", 1))
    frames = max(1, call.q.shape[0] // batch)
    rows = [moving if row % frames else none for row in range(call.q.shape[0])]
    own = chain(("video", call.q.shape[2]))
    return Spans(rows, [own] * len(rows))


def _video_tokens(evaluation: Evaluation) -> int:
    """Tokens of the latents that are denoised (channels first), by the patches of the configuration."""
    frames, height, width = evaluation.inputs["hidden_states"].shape[2:]
    patch = evaluation.config.patch_size
    time = getattr(evaluation.config, "patch_size_t", None) or 1
    time, tall, wide = (time, patch, patch) if isinstance(patch, int) else patch
    return int(prod((frames // time, height // tall, width // wide)))


def helios(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """What was painted before, coarser the longer ago, then the frames that are denoised; only these ask the
    text."""
    video = _video_tokens(evaluation)
    own = chain(("history", call.q.shape[2] - video), ("video", video))
    return Spans(chain(("text", call.k.shape[2])) if call.site.kind == "cross" else own, own)


def framepack(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """What was painted before, coarser the longer ago, the frames that are denoised, features of the first
    picture, and the text: a single row without its padding, several with it, hidden. The text's refiner holds
    the padding in either case."""
    count, mask = call.k.shape[2], evaluation.inputs["encoder_attention_mask"]
    lengths = [int(length) for length in mask.sum(1).tolist()]
    if call.site.layer is None:
        return Spans(*(2 * [[chain(("text", text), ("padding", count - text)) for text in lengths]]))
    video, image = _video_tokens(evaluation), evaluation.inputs["image_embeds"].shape[1]
    history = count - video - image - (lengths[0] if len(lengths) == 1 else mask.shape[1])
    before = (("history", history), ("video", video), ("image", image))
    rows = [
        chain(*before, ("text", text), ("padding", count - history - video - image - text))
        for text in lengths
    ]
    return Spans(rows, rows)


def behind_the_chat(pipe: Any, captured: Captured, prompt: int, length: int) -> Sequence[int]:
    """FramePack: the tokens behind the system's part of the chat that are no padding."""
    count = captured.ids.shape[1]
    last = count if captured.mask is None else int(captured.mask[prompt].sum())
    return range(last - length, last)


def motif(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Video, picture and text; the last blocks have in their place the video as the others left it."""
    inputs, video = evaluation.inputs, _video_tokens(evaluation)
    if call.site.kind == "cross":
        return Spans(chain(("text", call.k.shape[2])), chain(("video", call.q.shape[2])))
    block = re.match(r"single_transformer_blocks\.(\d+)\.", local_name(call, evaluation))
    config = evaluation.config
    if block and int(block[1]) >= config.num_single_layers - config.num_decoder_layers:
        tokens = chain(("video", video), ("encoded", call.k.shape[2] - video))
        return Spans(tokens, tokens)
    picture = inputs.get("image_embeds")
    image = 0 if picture is None else picture.shape[1]
    tokens = chain(("video", video), ("image", image), ("text", call.k.shape[2] - video - image))
    return Spans(tokens, tokens)


_STREAMS = {
    "video_text_transformer_blocks": ("text", "text"),
    "audio_text_transformer_blocks": ("text", "text"),
    "video_dec_block.self_attention": ("video", "video"),
    "video_dec_block.cross_attention": ("video", "text"),
    "audio_dec_block.self_attention": ("audio", "audio"),
    "audio_dec_block.cross_attention": ("audio", "text"),
    "va_cross_attention": ("video", "audio"),
    "av_cross_attention": ("audio", "video"),
}
"""What asks and what is asked in each attention of Kandinsky 6."""


def kandinsky6(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Video and audio with attention of their own, to their text and to each other; each refines the text."""
    name = local_name(call, evaluation)
    asking, asked = next(streams for part, streams in _STREAMS.items() if part in name)
    return Spans(chain((asked, call.k.shape[2])), chain((asking, call.q.shape[2])))


def packed(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """MiniMax H3: one sequence, in which the caller says where each stream lies."""
    refined_text = refined(call, evaluation)
    if refined_text is not None:
        return refined_text
    labels: list[str | None] = [None] * call.k.shape[2]
    for name in ("text", "audio", "video"):
        for place in evaluation.inputs[f"{name}_indices"].tolist():
            labels[place] = name
    tokens = runs(labels)
    return Spans(tokens, tokens)


def i2vgen(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Cross-attention sees the text, the picture's latents and its features; one attention over time has the
    latents of the picture alone."""
    if call.site.kind == "temporal" and call.site.layer is None:
        own = chain(("reference", call.k.shape[2]))
        return Spans(own, own)
    if call.site.kind != "cross":
        return None
    text, features = evaluation.inputs["encoder_hidden_states"].shape[1], evaluation.config.in_channels
    latents = call.k.shape[2] - text - features
    keys = chain(("text", text), ("reference", latents), ("image_embed", features))
    return Spans(keys, chain(("video", call.q.shape[2])))
