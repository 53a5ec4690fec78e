"""Where the tokens of image models of 2025 and 2026 lie, and which of their encoders' tokens they keep."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from .._spans import Spans, chain, local_name, runs
from ._image_spans import _patches, attended

if TYPE_CHECKING:
    from .._call import AttentionCall
    from .._prompts import Captured
    from .._tracker import Evaluation


def every_token(pipe: Any, captured: Captured, prompt: int, length: int) -> Sequence[int]:
    """All that the encoder read; zeros fill the shorter side of guidance up."""
    return range(captured.ids.shape[1])


def behind_the_prefix(pipe: Any, captured: Captured, prompt: int, length: int) -> Sequence[int]:
    """All behind the head of the template: padding stands between the prompt and the template's tail."""
    return range(getattr(pipe, "prompt_template_encode_start_idx", 0), captured.ids.shape[1])


def no_pictures(pipe: Any, captured: Captured, prompt: int, length: int) -> Sequence[int]:
    """What is no padding, without the system turn and the places of pictures."""
    places = attended(pipe, captured, prompt, length)[getattr(pipe, "_drop_idx", 0) :]
    picture, ids = getattr(pipe, "_img_token_id", None), captured.ids[prompt].tolist()
    return [place for place in places if ids[place] != picture]


def _both(*lengths: tuple[str, int]) -> Spans:
    """Queries and keys alike."""
    return Spans(chain(*lengths), chain(*lengths))


def flux3(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Text, image and reference each for themselves, then all three."""
    inputs, name = evaluation.inputs, local_name(call, evaluation)
    alone = {
        "txt_mode_blocks.": "text",
        "mode_blocks.image.": "image",
        "mode_blocks.image_cond.": "reference",
    }
    for start, segment in alone.items():
        if name.startswith(start):
            return _both((segment, call.k.shape[2]))
    text, image = inputs["encoder_hidden_states"].shape[1], inputs["hidden_states"].shape[1]
    return _both(("text", text), ("image", image), ("reference", call.k.shape[2] - text - image))


def qwen_image21(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """One call per run of text and per image: it asks all that came before, and itself. Images to look at
    stand within the text; from the second step on only the painted image asks, the rest is kept."""
    inputs = evaluation.inputs
    counts = [prod(shape) for shape in inputs["img_shapes"][0]]
    labels, pictures = [], 0
    # An image's slot in the text stands for four of its tokens.
    for slot in inputs["img_mask"][0].tolist():
        last = pictures >= sum(counts[:-1])
        labels += ["image" if last else "reference"] * 4 if slot else ["text"]
        pictures += 4 * slot
    keys = labels[: call.k.shape[2]]
    return Spans(runs(keys), runs(keys[-call.q.shape[2] :]))


def krea2(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """For every text token the layers of its encoder attend to each other; then the text; then all."""
    name, keys = local_name(call, evaluation), call.k.shape[2]
    if name.startswith("text_fusion.layerwise_blocks."):
        return _both(("text_layer", keys))
    text = evaluation.inputs["encoder_hidden_states"].shape[1]
    return _both(("text", text), ("image", keys - text))


def glm_image(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Text, then the image. Images to look at go through the model once before the first step; what was kept
    of them stands in front from then on."""
    inputs, keys, own = evaluation.inputs, call.k.shape[2], call.q.shape[2]
    text = inputs["encoder_hidden_states"].shape[1]
    cache = inputs.get("kv_caches")
    looks = cache is not None and cache[0].mode == "write"
    seen = ("text", text), ("reference" if looks else "image", own - text)
    return Spans(chain(("reference", keys - own), *seen), chain(*seen))


def ideogram4(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """One sequence whose roles the model is given: padding, text, image."""
    names = {3: "text", 2: "image"}
    rows = [runs([names.get(role, "padding") for role in row]) for row in _lists(evaluation, "indicator")]
    return Spans(rows, rows)


def _lists(evaluation: Evaluation, name: str) -> list[list[Any]]:
    """An input's values, asked for once per forward pass."""
    kept = evaluation.cache
    if ("values", name) not in kept:
        kept["values", name] = evaluation.inputs[name].tolist()
    found: list[list[Any]] = kept["values", name]
    return found


def fibo2(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Learned tokens that read the text (the gist), the image, those to look at. Where prompts of a batch
    have different numbers of gist tokens, these come last, and a mask hides what fills them up."""
    inputs, keys, queries = evaluation.inputs, call.k.shape[2], call.q.shape[2]
    name = local_name(call, evaluation)
    if name.startswith("perceiver."):
        own = chain(("gist", queries))
        return Spans(chain(("text", keys)) if call.site.kind == "cross" else own, own)
    pictures = [("image", _patches(inputs["hidden_states"]))]
    pictures += [("reference", _patches(latents)) for latents in inputs.get("context_latents") or ()]
    gist = ("gist", queries - sum(count for _, count in pictures))
    last = _gist_is_masked(evaluation)
    own = chain(*pictures, gist) if last else chain(gist, *pictures)
    return Spans(chain(("text", keys)) if call.site.kind == "cross" else own, own)


def _gist_is_masked(evaluation: Evaluation) -> bool:
    """Whether the prompts of the batch have different numbers of gist tokens, as the model counts them."""
    mask, config = evaluation.inputs.get("encoder_attention_mask"), evaluation.config
    if mask is None:
        return False
    from diffusers.models.transformers.transformer_bria_fibo2 import compute_gist_count

    if "gist" not in evaluation.cache:
        counts = compute_gist_count(
            mask.sum(dim=1).tolist(),
            min_gist=config.min_num_gist_tokens,
            max_gist=config.max_num_gist_tokens,
            gist_step=config.gist_step,
            min_text_len=config.gist_min_text_len,
            max_text_len=config.gist_max_text_len,
        )
        evaluation.cache["gist"] = len(set(counts)) > 1
    found: bool = evaluation.cache["gist"]
    return found


def image_asks(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Keys are the image, then the text; only the image asks."""
    own = call.q.shape[2]
    return Spans(chain(("image", own), ("text", call.k.shape[2] - own)), chain(("image", own)))


def omnigen(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Row by row padding, text with images to look at in its midst, the timestep, the image."""
    inputs = evaluation.inputs
    ids, sizes = inputs.get("input_ids"), inputs.get("input_image_sizes") or {}
    if ids is None:
        return _both(("timestep", 1), ("image", call.k.shape[2] - 1))
    count, mask = ids.shape[1], inputs["attention_mask"]
    if "hidden" not in evaluation.cache:
        # What no token of the image may look at is padding.
        told = mask is not None and mask.dim() == 3 and not mask.is_meta
        hidden = (mask[:, -1, :count] == 0).tolist() if told else [[False] * count] * len(ids)
        evaluation.cache["hidden"] = hidden
    rows = []
    for number, hidden in enumerate(evaluation.cache["hidden"]):
        labels = ["padding" if out else "text" for out in hidden]
        for start, stop in sizes.get(number, ()):
            labels[start:stop] = ["reference"] * (stop - start)
        rows.append(runs([*labels, "timestep", *["image"] * (call.k.shape[2] - count - 1)]))
    return Spans(rows, rows)


def joyimage(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """The image, those to look at, the text; the pipeline hands the painted one over as the last of them."""
    latents, text = (evaluation.inputs[name] for name in ("hidden_states", "encoder_hidden_states"))
    every = call.k.shape[2] - text.shape[1]
    own = every // latents.shape[1] if latents.dim() == 6 else every
    return _both(("image", own), ("reference", every - own), ("text", text.shape[1]))


def joyimage_plus(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Row by row the image, those to look at, padding up to the longest row, then the text."""
    inputs, rows = evaluation.inputs, []
    room, text = inputs["hidden_states"].shape[1], inputs["encoder_hidden_states"].shape[1]
    for shapes in inputs["shape_list"]:
        own, *others = [prod(shape) for shape in shapes]
        padding = room - own - sum(others)
        rows.append(chain(("image", own), ("reference", sum(others)), ("padding", padding), ("text", text)))
    return Spans(rows, rows)


def kandinsky3(call: AttentionCall, evaluation: Evaluation) -> Spans | None:
    """The mean of the text asks the text before the blocks."""
    if call.site.layer is not None:
        return None
    return Spans(chain(("text", call.k.shape[2])), chain(("pooled", call.q.shape[2])))


def prior(call: AttentionCall, evaluation: Evaluation) -> Spans:
    """Text, pooled text, timestep, the image's embedding, and a learned token that becomes the result."""
    text, keys = evaluation.inputs.get("encoder_hidden_states"), call.k.shape[2]
    said = 0 if text is None else text.shape[1]
    pooled = evaluation.inputs["proj_embedding"]
    pooled = pooled.shape[1] if pooled.dim() == 3 else 1
    latents = evaluation.inputs["hidden_states"]
    own = latents.shape[1] if latents.dim() == 3 else 1
    learned = keys - said - pooled - 1 - own
    return _both(
        ("text", said), ("pooled", pooled), ("timestep", 1), ("image_embed", own), ("register", learned)
    )
