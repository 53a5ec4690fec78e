"""The embedded pipelines: diffusers' own classes with the embedded models' defaults in place of theirs."""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from diffusers import StableDiffusion3Pipeline, StableDiffusionXLPipeline


class ShapesPipeline(StableDiffusion3Pipeline):  # type: ignore[misc]
    """Stable Diffusion 3's own pipeline; only the default steps, guidance and T5 length differ."""

    defaults: ClassVar[dict[str, Any]] = {
        "num_inference_steps": 20,
        "guidance_scale": 5.5,
        "max_sequence_length": 16,
    }

    @torch.no_grad()
    @functools.wraps(StableDiffusion3Pipeline.__call__)
    def __call__(self, prompt: str | list[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate images as `StableDiffusion3Pipeline` does, with the settings of `defaults`."""
        return super().__call__(prompt, *args, **_filled(super().__call__, args, kwargs, self.defaults))


class ShapesUnetPipeline(StableDiffusionXLPipeline):  # type: ignore[misc]
    """Stable Diffusion XL's own pipeline; only the default steps and guidance differ."""

    defaults: ClassVar[dict[str, Any]] = {"num_inference_steps": 20, "guidance_scale": 6.0}

    @torch.no_grad()
    @functools.wraps(StableDiffusionXLPipeline.__call__)
    def __call__(self, prompt: str | list[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate images as `StableDiffusionXLPipeline` does, with the settings of `defaults`."""
        return super().__call__(prompt, *args, **_filled(super().__call__, args, kwargs, self.defaults))


def open_pipeline(folder: Path, **options: Any) -> ShapesPipeline | ShapesUnetPipeline:
    """Load an embedded pipeline, or one that the trainer exported, from its folder."""
    index = json.loads((folder / "model_index.json").read_text())
    kind = ShapesUnetPipeline if "unet" in index else ShapesPipeline
    older = _older_tokenizers(folder, index)
    options = {**dict.fromkeys(older), **options}
    pipe: ShapesPipeline | ShapesUnetPipeline = kind.from_pretrained(folder, local_files_only=True, **options)
    if older:
        pipe.register_modules(**older)
        pipe.tokenizer_max_length = older["tokenizer"].model_max_length
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _older_tokenizers(folder: Path, index: dict[str, Any]) -> dict[str, Any]:
    """Tokenizers lie in one file each, which transformers 4 opens through its fast classes only."""
    if not transformers.__version__.startswith("4."):
        return {}
    return {
        name: getattr(transformers, f"{value[1]}Fast").from_pretrained(folder / name, extra_special_tokens={})
        for name, value in index.items()
        if name.startswith("tokenizer") and isinstance(value, list)
    }


def _filled(call: Any, args: tuple[Any, ...], given: dict[str, Any], defaults: dict[str, Any]) -> Any:
    """Keyword arguments with the defaults added that neither keywords nor positions give."""
    positional = list(inspect.signature(call).parameters)[1 : 1 + len(args)]
    return {**{name: value for name, value in defaults.items() if name not in positional}, **given}
