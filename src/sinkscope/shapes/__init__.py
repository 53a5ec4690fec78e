"""The embedded models and their world: real, trained pipelines that paint scenes of coloured shapes.

    pipe = sinkscope.load("shapes")
    pipe("a photo of a red circle").images[0]

"shapes" has the architecture of Stable Diffusion 3, "shapes-unet" that of Stable Diffusion XL with the same
text encoders and autoencoder. The weights lie in this package as plain diffusers folders (`folder()`), which
`DiffusionPipeline.from_pretrained` loads as well; then pass the settings of `defaults()`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import MissingWeightsError, unknown

if TYPE_CHECKING:
    import torch

    from sinkscope.shapes._pipeline import ShapesPipeline, ShapesUnetPipeline

__all__ = ["EMBEDDED", "clip_folder", "defaults", "folder", "load", "training_record"]

EMBEDDED = ("shapes", "shapes-unet")
"""Names of the embedded models."""
_FOLDERS = {
    "shapes": Path(__file__).parent / "model",
    "shapes-unet": Path(__file__).parent / "unet",
}


def folder(name: str = "shapes") -> Path:
    """Return the folder of an embedded pipeline."""
    return _existing(name, "pipeline")


def clip_folder() -> Path:
    """Return the folder of the embedded CLIP, trained on the same scenes."""
    return _existing("shapes", "clip")


def training_record(name: str = "shapes") -> dict[str, Any]:
    """Return how an embedded model was trained: command, steps, sizes, versions, measured accuracy."""
    record: dict[str, Any] = json.loads(_existing(name, "training.json").read_text())
    return record


def load(
    name: str = "shapes", *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ShapesPipeline | ShapesUnetPipeline:
    """Load an embedded pipeline, which paints 64 x 64 pixels with `defaults(name)` unless told otherwise."""
    from sinkscope.shapes._pipeline import open_pipeline

    pipe = open_pipeline(folder(name), **({} if dtype is None else {"torch_dtype": dtype}))
    if device is not None:
        pipe.to(device)
    return pipe


def defaults(name: str = "shapes") -> dict[str, Any]:
    """Return the settings an embedded model is made for: steps, guidance scale and, for T5, text length."""
    from sinkscope.shapes._pipeline import ShapesPipeline, ShapesUnetPipeline

    if name not in EMBEDDED:
        raise unknown("embedded model", name, EMBEDDED)
    kind = ShapesUnetPipeline if name == "shapes-unet" else ShapesPipeline
    return dict(kind.defaults)


def _existing(name: str, part: str) -> Path:
    if name not in EMBEDDED:
        raise unknown("embedded model", name, EMBEDDED)
    path = _FOLDERS[name] / part
    if not path.exists():
        option = " --model unet" if name == "shapes-unet" else ""
        raise MissingWeightsError(
            f"The embedded model {name!r} is not in this installation: {part!r} is missing from "
            f"{path.parent}. Install sinkscope from a complete wheel or checkout, or train the model with "
            f"`python -m sinkscope.shapes.train{option}`."
        )
    return path
