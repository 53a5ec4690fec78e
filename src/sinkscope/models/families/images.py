"""Image models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._spans import Span, Spans, chain, local_name
from ._family import Family

if TYPE_CHECKING:
    from .._call import AttentionCall
    from .._prompts import Captured
    from .._tracker import Evaluation

_UNET = Family(
    stacks=("down_blocks", "mid_block", "up_blocks"),
    kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
    text=(("clip", ("text_encoder", "text_encoder_2")),),
)
_ENCODER = (("text", ("text_encoder",)),)
_FLUX = ("transformer_blocks", "single_transformer_blocks")


def _attended(pipe: Any, encoder: str, captured: Captured, prompt: int) -> Sequence[int]:
    """The tokens that are no padding."""
    if captured.mask is None:
        return range(captured.ids.shape[1])
    return [place for place, keep in enumerate(captured.mask[prompt]) if keep]


def _behind_the_template(pipe: Any, encoder: str, captured: Captured, prompt: int) -> Sequence[int]:
    """The tokens that are no padding, without as many in front as the pipeline says."""
    return _attended(pipe, encoder, captured, prompt)[getattr(pipe, "prompt_template_encode_start_idx", 0) :]


def _z_image(call: AttentionCall, evaluation: Evaluation) -> Spans:
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


def _lumina2(call: AttentionCall, evaluation: Evaluation) -> Spans:
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
    ),
    "Flux2Transformer2DModel": Family(
        stacks=_FLUX, kinds=(("*.attn", "joint"),), joint=("text", "image"), text=_ENCODER
    ),
    "ChromaTransformer2DModel": Family(
        stacks=_FLUX, kinds=(("*.attn", "joint"),), joint=("text", "image"), text=_ENCODER
    ),
    "QwenImageTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn", "joint"),),
        joint=("text", "image"),
        text=_ENCODER,
        taken=_behind_the_template,
    ),
    "ZImageTransformer2DModel": Family(
        stacks=("layers",),
        kinds=(("layers.*", "joint"), ("*", "self")),
        joint=("image", "text"),
        text=_ENCODER,
        rows=("cond", "uncond"),
        spans=_z_image,
        taken=_attended,
    ),
    "Lumina2Transformer2DModel": Family(
        stacks=("layers",),
        kinds=(("layers.*", "joint"), ("*", "self")),
        joint=("text", "image"),
        text=_ENCODER,
        spans=_lumina2,
    ),
    "PixArtTransformer2DModel": Family(
        stacks=("transformer_blocks",),
        kinds=(("*.attn1", "self"), ("*.attn2", "cross")),
        text=(("t5", ("text_encoder",)),),
    ),
    "UNet2DConditionModel": _UNET,
}
