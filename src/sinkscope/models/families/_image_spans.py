"""Where the tokens of image models lie, for those whose streams' order and lengths do not tell, and which of
their encoders' tokens they keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._spans import Span, Spans, chain, local_name, runs

if TYPE_CHECKING:
    from .._call import AttentionCall
    from .._prompts import Captured
    from .._tracker import Evaluation


def attended(pipe: Any, captured: Captured, prompt: int, length: int) -> Sequence[int]:
    """The tokens that are no padding."""
    if captured.mask is None:
        return range(captured.ids.shape[1])
    return [place for place, keep in enumerate(captured.mask[prompt]) if keep]


def behind_the_template(pipe: Any, captured: Captured, prompt: int, length: int) -> Sequence[int]:
    """The tokens that are no padding, without as many in front as the pipeline says."""
    return attended(pipe, captured, prompt, length)[getattr(pipe, "prompt_template_encode_start_idx", 0) :]


def first_and_last(pipe: Any, captured: Captured, prompt: int, length: int) -> Sequence[int]:
    """The begin mark and the last tokens, behind an instruction of the pipeline's."""
    count = captured.ids.shape[1]
    return [0, *range(count - length + 1, count)]


def with_references(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Where the image to be painted is followed by images to look at (Kontext, FLUX.2, Qwen editing),
    these are a segment of their own. Position ids (the painted image has time 0) or shapes tell them."""
    inputs = evaluation.inputs
    ids, shapes = inputs.get("img_ids"), inputs.get("img_shapes")
    if isinstance(ids, Tensor):
        times = ids.reshape(-1, *ids.shape[-2:])[0, :, 0]
        every, own = len(times), int((times == 0).sum())
    elif shapes:
        sizes = shapes[0] if isinstance(shapes[0], list) else shapes
        counts = [frames * height * width for frames, height, width in sizes]
        every, own = sum(counts), counts[0]
    else:
        return None
    text = evaluation.inputs["encoder_hidden_states"].shape[1]
    if own == every or call.site.index or call.k.shape[2] != text + every:
        return None
    tokens = chain(("text", text), ("image", own), ("reference", every - own))
    return Spans(tokens, tokens)


def prx(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Keys are the text, then the image; only the image asks."""
    own = call.q.shape[2]
    return Spans(chain(("text", call.k.shape[2] - own), ("image", own)), chain(("image", own)))


def hunyuan_image(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """The text is refined before the blocks. Where two encoders read it, each row has the tokens of both that
    are no padding, then the padding of both."""
    inputs, count = evaluation.inputs, call.k.shape[2]
    if call.site.layer is None:
        return Spans(chain(("text", count)), chain(("text", count)))
    second = inputs.get("encoder_hidden_states_2")
    if second is None:
        return None
    first = inputs["encoder_hidden_states"].shape[1]
    lengths = (first, second.shape[1])
    kept = [
        inputs[name].bool().sum(1).tolist() for name in ("encoder_attention_mask", "encoder_attention_mask_2")
    ]
    rows = []
    for one, two in zip(*kept, strict=True):
        row = [Span("image", 0, count - sum(lengths))]
        for place, size in ((0, one), (first, two), (one, first - one), (first + two, lengths[1] - two)):
            row.append(Span("text", row[-1].stop, row[-1].stop + size, place))
        rows.append([span for span in row if span.stop > span.start])
    return Spans(rows, rows)


def ernie(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Image, then text."""
    text = evaluation.inputs["text_bth"].shape[1]
    tokens = chain(("image", call.k.shape[2] - text), ("text", text))
    return Spans(tokens, tokens)


def cascade(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """The image asks itself, CLIP's text, vectors made of its pooled text, and others made of an image."""
    own, inputs = call.q.shape[2], evaluation.inputs
    text, picture = inputs.get("clip_text"), inputs.get("clip_img")
    rest = call.k.shape[2] - own
    if text is None or picture is None:
        return Spans(chain(("image", own), ("pooled", rest)), chain(("image", own)))
    vectors = rest - text.shape[1]
    # As many vectors for each pooled text as for each image.
    texts = _count(inputs["clip_text_pooled"])
    pooled = vectors * texts // (texts + _count(picture))
    keys = chain(
        ("image", own), ("text", text.shape[1]), ("pooled", pooled), ("image_embed", vectors - pooled)
    )
    return Spans(keys, chain(("image", own)))


def _count(embeddings: Tensor) -> int:
    """Embeddings per row."""
    return embeddings.shape[1] if embeddings.dim() == 3 else 1


def z_image(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Row by row: the image filled up to a multiple of 32 with a learned token, then the text filled up in
    the same way, then padding up to the longest row. The refiners hold one of the two."""
    images, texts = evaluation.inputs["x"], evaluation.inputs["cap_feats"]
    if isinstance(images[0], list):  # several images and texts per row
        return Spans([], [])
    side = evaluation.inputs.get("patch_size", 2) ** 2 * evaluation.inputs.get("f_patch_size", 1)
    stack = local_name(call, evaluation).partition(".")[0]
    rows = []
    for image, text in zip(images, texts, strict=True):
        parts = {"noise_refiner": _filled("image", image[0].numel() // side)}
        parts["context_refiner"] = _filled("text", len(text))
        parts["layers"] = [*parts["noise_refiner"], *parts["context_refiner"]]
        rows.append(_to(call.k.shape[2], parts[stack]))
    return Spans(rows, rows)


def _filled(name: str, length: int) -> list[tuple[str, int]]:
    return [(name, length), ("padding", -length % 32)]


def _to(count: int, parts: Sequence[tuple[str, int]]) -> list[Span]:
    """Parts one behind the other, then padding up to a number of tokens."""
    return chain(*parts, ("padding", count - sum(length for _, length in parts)))


def lumina2(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Row by row: as much text as is no padding, then the image, then padding up to the longest row. The
    refiners hold one of the two; keys and queries of the text's padding are zeros there."""
    count = call.k.shape[2]
    stack = local_name(call, evaluation).partition(".")[0]
    if stack == "noise_refiner":
        return Spans(chain(("image", count)), chain(("image", count)))
    lengths = [int(length) for length in evaluation.inputs["encoder_attention_mask"].sum(dim=1)]
    image = count - max(lengths) if stack == "layers" else 0
    rows = [_to(count, [("text", length), ("image", image)]) for length in lengths]
    return Spans(rows, rows)


def hidream(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """The image, filled up with zeros where it is not square, then T5 and two layers of Llama."""
    inputs = evaluation.inputs
    t5, llama = inputs["encoder_hidden_states_t5"], inputs["encoder_hidden_states_llama3"]
    text = t5.shape[1] + 2 * llama.shape[-2]
    room = call.k.shape[2] - text
    latents, sizes = inputs["hidden_states"], inputs.get("img_sizes")
    if latents.dim() == 4:
        side = room if latents.shape[2] == latents.shape[3] else _patches(latents)
        part = chain(("image", side), ("padding", room - side), ("text", text))
        return Spans(part, part)
    if sizes is None:
        return Spans([], [])
    counts = [int(height) * int(width) for height, width in sizes]
    rows = [chain(("image", count), ("padding", room - count), ("text", text)) for count in counts]
    return Spans(rows, rows)


def auraflow(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Learned registers, then the text, then the image."""
    text = evaluation.inputs["encoder_hidden_states"].shape[1]
    image = _patches(evaluation.inputs["hidden_states"])
    part = chain(("register", call.k.shape[2] - text - image), ("text", text), ("image", image))
    return Spans(part, part)


def _patches(latents: Tensor) -> int:
    """Image tokens of latents in patches of two."""
    return latents.shape[-1] * latents.shape[-2] // 4


def hunyuan(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Cross-attention sees CLIP and T5, their padding replaced by learned vectors; the pooler asks with the
    mean of T5, which stands before it."""
    inputs = evaluation.inputs
    clip = inputs["encoder_hidden_states"].shape[1]
    if call.site.layer is None:
        text = [Span("pooled", 0, 1), Span("text", 1, call.k.shape[2], clip)]
        return Spans(text, chain(("pooled", 1)))
    if call.site.kind != "cross":
        return None
    masks = torch.cat([inputs["text_embedding_mask"], inputs["text_embedding_mask_t5"]], 1).bool().tolist()
    rows = []
    for mask in masks:
        found = runs(["text" if keep else "padding" for keep in mask])
        rows.append([span._replace(first=span.start) if span.name == "text" else span for span in found])
    return Spans(rows, chain(("image", call.q.shape[2])))


def unet(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """Attention that has the image's own keys behind those of a condition, a picture's features."""
    if call.site.kind != "joint":
        return None
    own = call.q.shape[2]
    return Spans(chain(("image_embed", call.k.shape[2] - own), ("image", own)), chain(("image", own)))
