"""The embedded model and its world: a real, trained SD3-architecture pipeline that paints scenes of coloured
shapes.

    pipe = sinkscope.load("shapes")
    pipe("a photo of a red circle").images[0]

The weights lie in this package as a plain diffusers folder (`folder()`), which
`StableDiffusion3Pipeline.from_pretrained` loads as well; then pass the settings of `defaults()`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import MissingWeightsError

if TYPE_CHECKING:
    import torch

    from sinkscope.shapes._pipeline import ShapesPipeline

__all__ = ["clip_folder", "defaults", "folder", "load", "training_record"]

_MODEL = Path(__file__).parent / "model"


def folder() -> Path:
    """Return the folder of the embedded pipeline."""
    return _existing(_MODEL / "pipeline")


def clip_folder() -> Path:
    """Return the folder of the embedded CLIP, trained on the same scenes."""
    return _existing(_MODEL / "clip")


def training_record() -> dict[str, Any]:
    """Return how the embedded model was trained: command, steps, sizes, versions, measured accuracy."""
    record: dict[str, Any] = json.loads(_existing(_MODEL / "training.json").read_text())
    return record


def load(device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> ShapesPipeline:
    """Load the embedded pipeline, which paints 64 x 64 pixels with `defaults()` unless told otherwise."""
    from sinkscope.shapes._pipeline import ShapesPipeline

    options = {} if dtype is None else {"torch_dtype": dtype}
    pipe: ShapesPipeline = ShapesPipeline.from_pretrained(folder(), local_files_only=True, **options)
    pipe.set_progress_bar_config(disable=True)
    if device is not None:
        pipe.to(device)
    return pipe


def defaults() -> dict[str, Any]:
    """Return the settings the model is made for: steps, guidance scale and length of the T5 text."""
    from sinkscope.shapes._pipeline import DEFAULTS

    return dict(DEFAULTS)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise MissingWeightsError(
            f"The embedded model is not in this installation: {path.name!r} is missing from {path.parent}. "
            "Install sinkscope from a complete wheel or checkout, or train the model with "
            "`python -m sinkscope.shapes.train`."
        )
    return path
