"""Inputs of a denoiser without values: the shapes a pipeline would hand over at a given size.

A forward pass names its inputs, and the same names mean the same thing in all of diffusers and transformers;
so inputs are made by parameter name, not by model. Where a name says nothing about the order of axes (latents
of videos), several candidates are made and the caller takes the first that the model accepts. The tests
compare every shape of the resulting attention calls with those of a real run of the pipeline.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ._meta_sequences import Sequences
from ._meta_streams import Streams
from .families import family_of


class UnknownInputError(Exception):
    """A required input that no rule can make."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large one sample is, in the units the denoiser sees."""

    height: int
    """Rows of the latents (pixels for models without an autoencoder)."""
    width: int
    """Columns of the latents."""
    frames: int
    """Latent frames; 1 for images."""
    text: int
    """Text tokens, as the pipeline pads or cuts them; tokens of a language model."""
    clip: int = 77
    """Positions of a CLIP encoder, where a model takes its tokens beside others."""
    image: int = 257
    """Tokens of an image encoder, where a model takes them as a condition."""


_TEXT_WIDTHS = (
    "joint_attention_dim", "text_embed_dim", "text_dim", "cap_feat_dim", "caption_channels",
    "cross_attention_input_dim", "in_text_dim", "text_in_dim", "text_hidden_size", "encoder_hid_dim",
    "cross_attention_dim", "context_in_dim", "text_hidden_dim", "llm_features_dim", "embedding_dim",
)  # fmt: skip


_MASKS = ("attention_mask", "encoder_attention_mask", "encoder_hidden_states_mask")


def candidates(root: nn.Module, size: Size) -> Iterator[dict[str, Any]]:
    """Arguments of `forward` by name, most likely first; tensors of floats are on the meta device.

    Raises:
        UnknownInputError: a required argument has a name that no rule knows.
    """
    parameters = dict(list(inspect.signature(type(root).forward).parameters.items())[1:])
    # Masks change no length, so those that may be left out are, if the model lets them.
    for masked, latents in product((False, True), _latents(root, parameters, size)):
        maker = _Maker(root, size, latents)
        made: dict[str, Any] = {}
        for name, parameter in parameters.items():
            rule: Callable[[], Any] | None = getattr(maker, name, None)
            wanted = rule is not None and (masked or _required(parameter) or name not in _MASKS)
            value = rule() if rule is not None and wanted else None
            if value is not None:
                made[name] = value
            elif _required(parameter) and rule is not None:
                made[name] = None
            elif _required(parameter):
                raise UnknownInputError(f"{type(root).__name__} asks for {name!r}")
        yield made


def _required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return named and parameter.default is inspect.Parameter.empty


def _config(root: nn.Module) -> Any:
    return getattr(root, "config", None)


def _first(config: Any, names: tuple[str, ...]) -> Any:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), None)


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _packed(config: Any, size: Size) -> int:
    """Image tokens of a sequence: squares of two by two latents, or latents of a strong autoencoder."""
    side = 1 if _first(config, ("causal_condition", "text_encoder_dim")) is not None else 2
    return (size.height // side) * (size.width // side)


def _latents(root: nn.Module, parameters: Mapping[str, Any], size: Size) -> Iterator[Tensor]:
    config, family = _config(root), family_of(root)
    channels = _first(config, ("in_channels", "in_visual_dim", "num_channels")) or 4
    if getattr(config, "visual_cond", False):  # a picture to start from, and where it is given
        channels = 2 * channels + 1
    packed = _packed(config, size)
    if "proj_embedding" in parameters:
        yield _empty(1, _first(config, ("embedding_dim",)))
    elif "shape_list" in parameters:  # patches, not yet tokens
        yield _empty(1, packed, channels, 1, 2, 2)
    elif "position_ids" in parameters and "input_ids" not in parameters:
        yield _empty(1, packed + (size.text if "indicator" in parameters else 0), channels)
    elif {"img_ids", "img_shapes"} & set(parameters):
        yield _empty(1, packed, channels)
        yield _empty(1, channels, size.height, size.width)
    elif {"num_frames", "height", "width"} <= set(parameters):
        yield _empty(1, size.frames * size.height * size.width, channels)
    elif family is not None and family.visual == "audio":
        if "StableAudio" not in type(root).__name__:
            raise UnknownInputError(
                f"{type(root).__name__} works on sound, whose length no configuration tells"
            )
        yield _empty(1, channels, _first(config, ("sample_size",)) or size.width)
    else:
        # A latent frame of its own is the picture of who shall move.
        before = 1 if "pose_hidden_states" in parameters else 0
        axes = {"c": channels, "f": size.frames + before, "h": size.height, "w": size.width}
        orders = ("cfhw", "fchw", "fhwc") if is_video(root) else ("chw", "cfhw")
        told = family.latents if family is not None and family.latents else None
        for order in (told,) if told else orders:
            yield _empty(1, *(axes[axis] for axis in order))


def is_video(root: nn.Module) -> bool:
    """Whether the latents of a denoiser have a time axis."""
    family = family_of(root)
    kind = type(root).__name__
    return any(mark in kind for mark in ("3D", "Motion", "SpatioTemporal")) or (
        family is not None and family.visual == "video"
    )


class _Maker(Sequences, Streams):
    """One method per name of a parameter; None where the model goes without."""

    def __init__(self, root: nn.Module, size: Size, latents: Tensor) -> None:
        self._root, self._size, self._latents = root, size, latents
        self._config = _config(root)
        self._parameters = inspect.signature(type(root).forward).parameters

    # ---- what is denoised

    def hidden_states(self) -> Any:
        return self._latents

    def sample(self) -> Any:
        return self._latents

    def x(self) -> Any:
        # Z-Image takes a list of samples of their own sizes, with a frame axis.
        if self._has("cap_feat_dim") is not None:
            return [self._latents[0] if self._latents.dim() == 5 else self._latents[0].unsqueeze(1)]
        return self._latents

    def timestep(self) -> Any:
        # Flow maps are told where each frame is and where it shall go.
        each = (1, self._size.frames) if "r_timestep" in self._parameters else (1,)
        return torch.full(each, 500.0)

    timesteps = t = timestep

    def guidance(self) -> Any:
        return torch.full((1,), 3.0) if self._has("guidance_embeds") else None

    def class_labels(self) -> Any:
        known = self._has("num_embeds_ada_norm") and type(self._root).__name__.startswith("DiT")
        return torch.zeros(1, dtype=torch.long) if known else None

    # ---- places

    def img_ids(self) -> Any:
        return self._ids(self._latents.shape[1])

    def txt_ids(self) -> Any:
        return self._ids(self._size.text)

    def _ids(self, count: int) -> Tensor:
        axes = self._has("axes_dims_rope")
        return torch.zeros(count, len(axes) if axes else 3)

    def visual_rope_pos(self) -> Any:
        patch = self._has("patch_size") or (1, 1, 1)
        sizes = (self._size.frames, self._size.height, self._size.width)
        return [torch.arange(size // step) for size, step in zip(sizes, patch, strict=True)]

    def text_rope_pos(self) -> Any:
        return torch.arange(self._size.text)

    def added_time_ids(self) -> Any:
        wide, each = self._has("projection_class_embeddings_input_dim"), self._has("addition_time_embed_dim")
        return None if wide is None or each is None else torch.zeros(1, wide // each)

    def img_shapes(self) -> Any:
        side = 1 if self._has("causal_condition") is not None else 2
        shape = (self._size.frames, self._size.height // side, self._size.width // side)
        return [shape] if "Nucleus" in type(self._root).__name__ else [[shape]]

    def num_frames(self) -> Any:
        return self._size.frames

    def height(self) -> Any:
        return self._size.height

    def width(self) -> Any:
        return self._size.width

    def image_meta_size(self) -> Any:
        return torch.full((1, 6), 1024.0)

    def style(self) -> Any:
        return torch.zeros(1, dtype=torch.long)

    def original_size(self) -> Any:
        return torch.tensor([[8.0 * self._size.height, 8.0 * self._size.width]])

    target_size = original_size

    def crop_coords(self) -> Any:
        return torch.zeros(1, 2)

    # ---- text

    def encoder_hidden_states(self) -> Any:
        if self._has("encoder_hid_dim_type") == "image_proj":
            return None
        wide = _first(self._config, _TEXT_WIDTHS)
        if wide is None:
            return None
        wide = wide[0] if isinstance(wide, (tuple, list)) else wide
        text = self._size.clip if self._has("cross_attention_dim_t5") else self._size.text
        if self._has("num_text_layers"):
            return _empty(1, self._size.text, self._has("num_text_layers"), wide)
        if self._has("injection_layer_ids") is not None:
            return _empty(1, 1 + len(self._has("injection_layer_ids")), self._size.text, wide)
        if self._has("llm_features_dim"):
            return _empty(1, self._latents.shape[1], wide)
        # UNets with motion modules take their frames as rows.
        rows = self._size.frames if "Motion" in type(self._root).__name__ else 1
        return _empty(rows, 1 if "SpatioTemporal" in type(self._root).__name__ else text, wide)

    def encoder_hidden_states_t5(self) -> Any:
        captions = self._has("caption_channels")
        wide = captions[0] if isinstance(captions, (tuple, list)) else self._has("cross_attention_dim_t5")
        return None if wide is None else _empty(1, self._size.text, wide)

    def encoder_hidden_states_llama3(self) -> Any:
        captions, layers = self._has("caption_channels"), self._has("llama_layers")
        if not isinstance(captions, (tuple, list)) or layers is None:
            return None
        return _empty(max(layers) + 1, 1, self._size.text, captions[1])

    def encoder_hidden_states_2(self) -> Any:
        wide = self._has("text_embed_2_dim")
        return None if wide is None else _empty(1, self._size.text, wide)

    def encoder_attention_mask_2(self) -> Any:
        return torch.ones(1, self._size.text, dtype=torch.bool)

    def image_embeds(self) -> Any:
        # Zeros stand for no image; the model looks at their values. Others take none, or always one.
        wide = self._has("image_embed_dim") or (
            self._has("image_proj_dim") if self._has("has_image_proj") else None
        )
        if "Motif" in type(self._root).__name__:
            return None
        return None if wide is None else torch.zeros(1, self._size.image, wide)

    def pooled_projections(self) -> Any:
        wide = _first(self._config, ("pooled_projection_dim", "in_text_dim2"))
        return None if wide is None else _empty(1, wide)

    def global_hidden_states(self) -> Any:
        wide = self._has("global_states_input_dim")
        return None if wide is None else _empty(1, 1, wide)

    def pooled_embeds(self) -> Any:
        wide = self._has("text_emb_dim")
        return None if wide is None else _empty(1, wide)

    def cap_feats(self) -> Any:
        wide = self._has("cap_feat_dim")
        return None if wide is None else [_empty(self._size.text, wide)]

    def encoder_hidden_states_image(self) -> Any:
        wide = self._has("image_dim")
        return None if wide is None else _empty(1, self._size.image, wide)

    def encoder_attention_mask(self) -> Any:
        return torch.ones(1, self._size.text, dtype=torch.bool)

    encoder_hidden_states_mask = encoder_attention_mask

    def text_embedding_mask(self) -> Any:
        return torch.ones(1, self._size.clip, dtype=torch.bool)

    def text_embedding_mask_t5(self) -> Any:
        return torch.ones(1, self._size.text, dtype=torch.bool)

    def added_cond_kwargs(self) -> Any:
        if self._has("encoder_hid_dim_type") == "image_proj":
            return {"image_embeds": _empty(1, self._has("encoder_hid_dim"))}
        if self._has("addition_embed_type") == "text_time":
            times = 6 * self._has("addition_time_embed_dim")
            wide = self._has("projection_class_embeddings_input_dim") - times
            return {"text_embeds": _empty(1, wide), "time_ids": torch.zeros(1, 6)}
        if hasattr(self._root, "use_additional_conditions"):
            given = bool(self._root.use_additional_conditions)
            return {
                "resolution": torch.full((1, 2), 1024.0) if given else None,
                "aspect_ratio": torch.ones(1, 1) if given else None,
            }
        return None

    # ---- language and vision

    def input_ids(self) -> Any:
        read = self._config.get_text_config() if hasattr(self._config, "get_text_config") else self._config
        if getattr(read, "vocab_size", None) is None:
            return None
        ids = torch.zeros(1, self._size.text, dtype=torch.long)
        placeholder = self._has("image_token_id")
        if placeholder is not None:
            ids[:, 1 : 1 + self._patches()] = placeholder
        return ids

    def _patches(self) -> int:
        sees = self._config.vision_config
        return (sees.image_size // sees.patch_size) ** 2

    def pixel_values(self) -> Any:
        sees = getattr(self._config, "vision_config", self._config)
        channels, pixels = getattr(sees, "num_channels", None), getattr(sees, "image_size", None)
        if channels is None:
            return None
        size = (self._size.height, self._size.width) if sees is self._config else (pixels, pixels)
        return _empty(1, channels, *size)


__all__ = ["Size", "UnknownInputError", "candidates", "is_video"]
