"""From pixels, frames and prompts to what the denoiser sees, by the configurations of the other parts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UsageError
from ._meta import Skeleton
from ._meta_inputs import Size, is_video

_CLIP = 77


@dataclass(frozen=True, kw_only=True)
class SizeInPixels:
    """One sample, as users ask for it and as the denoiser sees it."""

    height: int
    width: int
    frames: int
    latent: Size
    assumed: str | None = None
    """What no configuration tells: pixels per latent without an autoencoder's, lengths that follow the prompt
    or the pictures it comes with."""


_WITHOUT_AUTOENCODER = {
    "BriaFiboTransformer2DModel": (16, 1),
    "QwenImage21Transformer2DModel": (16, 1),
    "LTXVideoTransformer3DModel": (32, 8),
    "MochiTransformer3DModel": (8, 6),
    "LatteTransformer3DModel": (8, 1),
    "UNetMotionModel": (8, 1),
    "UNetSpatioTemporalConditionModel": (8, 1),
}
"""Pixels and frames per latent of the released pipelines, where they are not 8 and 4 (1 for images)."""

_FRAMES = ("num_frames", "video_length", "segment_frame_length")
"""What pipelines call the number of frames."""
_WINDOWS = ("latent_window_size", "num_latent_frames_per_chunk")
"""What pipelines call the latent frames that they denoise at a time."""

_AS_LONG_AS_THE_PROMPT = (
    "BriaFiboTransformer2DModel",
    "Lumina2Transformer2DModel",
    "LuminaNextDiT2DModel",
    "MochiTransformer3DModel",
    "OmniGenTransformer2DModel",
    "QwenImage21Transformer2DModel",
    "ZImageTransformer2DModel",
)
"""Denoisers that are given the prompt's own tokens and no padding."""


def size_of(
    bones: Skeleton, *, height: int | None, width: int | None, frames: int | None, text: int | None
) -> SizeInPixels:
    """Fill in the pipeline's own size and text length where none is given.

    Raises:
        UsageError: a size that is no positive number.
    """
    asked = {"height": height, "width": width, "frames": frames, "text": text}
    for name, value in asked.items():
        if value is not None and value < 1:
            raise UsageError(f"Got {name}={value}, expected a number from 1.")
    root = next(iter(bones.roots.values()))
    call = {**_defaults(bones.pipeline), **bones.call}
    spatial, temporal, assumed = _factors(bones)
    tall, wide = _own_size(root, spatial, call)
    height, width = height or tall, width or wide
    asked_frames = frames or next((call[name] for name in _FRAMES if call.get(name)), None)
    frames, window = _one_window(asked_frames or _own_frames(root, temporal), temporal, call)
    length = _text(bones, root, call)
    latent = Size(
        height=max(height // spatial, 1),
        width=max(width // spatial, 1),
        frames=(frames - 1) // temporal + 1,
        text=text or length,
        clip=_clip(bones),
        image=_image(bones),
    )
    notes = [assumed, window, None if text else _of_the_prompt(bones, root, length)]
    assumed = "; ".join(note for note in notes if note) or None
    return SizeInPixels(height=height, width=width, frames=frames, latent=latent, assumed=assumed)


def _one_window(frames: int, temporal: int, call: Mapping[str, int]) -> tuple[int, str | None]:
    """Frames that are denoised at a time, where a pipeline paints window after window."""
    window = next((call[name] for name in _WINDOWS if call.get(name)), None)
    most = frames if window is None else (window - 1) * temporal + 1
    if frames <= most:
        return frames, None
    return most, f"one window of {most} frames, after which the next one follows"


def _of_the_prompt(bones: Skeleton, root: nn.Module, length: int) -> str | None:
    """What a call will bring that is known only then."""
    if type(root).__name__ in _AS_LONG_AS_THE_PROMPT:
        return f"{length} text tokens, as many as fit; a run has as many as its prompt (--text)"
    if bones.pipeline is not None and (
        "Kontext" in bones.pipeline.__name__ or "Edit" in bones.pipeline.__name__
    ):
        return "no picture to edit, whose tokens come on top"
    return None


def _defaults(pipeline: type | None) -> dict[str, int]:
    """Whole numbers that the pipeline's call takes when it is told nothing."""
    if pipeline is None:
        return {}
    parameters = inspect.signature(pipeline.__call__).parameters
    return {
        name: value.default
        for name, value in parameters.items()
        if isinstance(value.default, int) and value.default
    }


def _factors(bones: Skeleton) -> tuple[int, int, str | None]:
    """Pixels per latent along an edge, frames per latent frame, and whether that is an assumption."""
    root = next(iter(bones.roots.values()))
    if not is_latent(root):
        return 1, 1, None
    config = next((bones.configs[name] for name in ("vae", "movq", "vqvae") if bones.configs.get(name)), None)
    if config is not None:
        return _spatial(config), _temporal(config, bones), None
    spatial, temporal = _WITHOUT_AUTOENCODER.get(type(root).__name__, (8, 4 if is_video(root) else 1))
    frames = f" and {temporal} frames" if temporal > 1 else ""
    return (
        spatial,
        temporal,
        f"{spatial} x {spatial} pixels{frames} per latent, as no autoencoder is described",
    )


def is_latent(root: nn.Module) -> bool:
    """Whether it works on latents; models of transformers look at texts and pixels themselves."""
    return not any(kind.__module__.partition(".")[0] == "transformers" for kind in type(root).__mro__)


def _spatial(config: Mapping[str, Any]) -> int:
    for name in ("scale_factor_spatial", "spatial_compression_ratio"):
        if config.get(name):
            return int(config[name])
    if config.get("spatio_temporal_scaling"):
        return int(config.get("patch_size", 1)) * 2 ** sum(config["spatio_temporal_scaling"])
    if config.get("temperal_downsample"):
        return 2 ** len(config["temperal_downsample"])
    blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels")
    return 2 ** (len(blocks) - 1) if blocks else 8


def _temporal(config: Mapping[str, Any], bones: Skeleton) -> int:
    for name in ("scale_factor_temporal", "temporal_compression_ratio"):
        if config.get(name):
            return int(config[name])
    if config.get("spatio_temporal_scaling"):
        return int(config.get("patch_size_t", 1)) * 2 ** sum(config["spatio_temporal_scaling"])
    if config.get("temporal_expansions"):
        return math.prod(int(value) for value in config["temporal_expansions"])
    if config.get("temperal_downsample"):
        return 2 ** sum(map(bool, config["temperal_downsample"]))
    # Autoencoders of images are applied frame by frame.
    kind = bones.others.get("vae", "")
    return 1 if kind in ("", "AutoencoderKL", "AutoencoderKLTemporalDecoder") else 4


def _own_size(root: nn.Module, spatial: int, call: Mapping[str, int]) -> tuple[int, int]:
    if call.get("height") and call.get("width"):
        return call["height"], call["width"]
    config: Any = getattr(root, "config", None)
    tall = getattr(config, "sample_height", None) or getattr(config, "sample_size", None)
    wide = getattr(config, "sample_width", None) or getattr(config, "sample_size", None)
    if tall is None or wide is None:
        pixels = getattr(config, "image_size", None)
        pixels = pixels[0] if isinstance(pixels, (tuple, list)) else pixels
        return (pixels, pixels) if pixels else (1024, 1024)
    tall, wide = (value[0] if isinstance(value, (tuple, list)) else value for value in (tall, wide))
    return int(tall) * spatial, int(wide) * spatial


def _own_frames(root: nn.Module, temporal: int) -> int:
    config: Any = getattr(root, "config", None)
    frames = getattr(config, "sample_frames", None)
    if frames is None and is_video(root) and isinstance(getattr(config, "num_frames", None), int):
        return int(config.num_frames)
    if isinstance(frames, int):  # CogVideoX counts frames there, Allegro latent frames
        return (frames - 1) * temporal + 1 if frames < 30 else frames
    return (
        121 if type(root).__name__ == "LTX2VideoTransformer3DModel" else 1
    )  # written in its pipelines' code


def _text(bones: Skeleton, root: nn.Module, call: Mapping[str, int]) -> int:
    config: Any = getattr(root, "config", None)
    if not is_latent(root):
        return min(int(getattr(config, "max_position_embeddings", 0) or 512), 512)
    length = call.get("max_sequence_length", 0)
    if type(root).__name__ == "SD3Transformer2DModel":
        return _clip(bones) + (length or 256)
    if length:
        return length
    return 256 if hasattr(config, "cross_attention_dim_t5") else _clip(bones)


def _clip(bones: Skeleton) -> int:
    for name in ("text_encoder", "text_encoder_2"):
        found = bones.configs.get(name, {}).get("max_position_embeddings")
        if isinstance(found, int) and bones.others.get(name, "").startswith("CLIP"):
            return found
    return _CLIP


def _image(bones: Skeleton) -> int:
    """Tokens of the image encoder: its patches and, but for SigLIP, a class token; those of the released ones
    if unknown."""
    config = bones.configs.get("image_encoder", {})
    pixels, patch = config.get("image_size"), config.get("patch_size")
    classes = 0 if bones.others.get("image_encoder", "").startswith("Siglip") else 1
    return (pixels // patch) ** 2 + classes if isinstance(pixels, int) and isinstance(patch, int) else 257
