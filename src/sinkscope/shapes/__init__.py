"""The embedded models and their world: real, trained pipelines that paint scenes of coloured shapes.

    pipe = sinkscope.load("shapes")
    pipe("a photo of a red circle").images[0]

"shapes" has the architecture of Stable Diffusion 3, "shapes-unet" that of Stable Diffusion XL with the same
text encoders and autoencoder. The weights lie in this package as plain diffusers folders (`folder()`), which
`DiffusionPipeline.from_pretrained` loads as well; then pass the settings of `defaults()`.

`READERS` are small models that read instead of painting: language models that give the nats of each word of a
story about shapes, and vision transformers that say what is in a scene. Their weights are plain folders of
transformers.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import MissingWeightsError, unknown

if TYPE_CHECKING:
    import torch

    from sinkscope.shapes._pipeline import ShapesPipeline, ShapesUnetPipeline
    from sinkscope.shapes._reading import Reader

__all__ = ["EMBEDDED", "READERS", "clip_folder", "defaults", "folder", "load", "training_record"]

EMBEDDED = ("shapes", "shapes-unet")
"""Names of the embedded models that paint."""
READERS = ("shapes-lm", "shapes-mdlm", "shapes-vit", "shapes-vit-registers")
"""Names of the embedded models that read: autoregressive and masked-diffusion language models, and vision
transformers without and with registers."""
_HERE = Path(__file__).parent
_FOLDERS = {
    "shapes": _HERE / "model",
    "shapes-unet": _HERE / "unet",
    "shapes-lm": _HERE / "language" / "autoregressive",
    "shapes-mdlm": _HERE / "language" / "masked_diffusion",
    "shapes-vit": _HERE / "vision" / "plain",
    "shapes-vit-registers": _HERE / "vision" / "registers",
}


def folder(name: str = "shapes") -> Path:
    """Return the folder of an embedded model: of a pipeline, or of a reader's network."""
    return _existing(name, "model.safetensors").parent if name in READERS else _existing(name, "pipeline")


def clip_folder() -> Path:
    """Return the folder of the embedded CLIP, trained on the same scenes."""
    return _existing("shapes", "clip")


def training_record(name: str = "shapes") -> dict[str, Any]:
    """Return how an embedded model was trained: command, steps, sizes, versions, measured accuracy."""
    record: dict[str, Any] = json.loads(_existing(name, "training.json").read_text())
    return record


def load(
    name: str = "shapes", *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> ShapesPipeline | ShapesUnetPipeline | Reader:
    """Load an embedded model.

    The painters make 64 x 64 pixels with `defaults(name)` unless told otherwise; the readers (`READERS`) give
    arrays.
    """
    from sinkscope.shapes._pipeline import open_pipeline

    pipe: Any
    if name in READERS:
        pipe = _reader(name).open_pipeline(name, folder(name), dtype)
    else:
        pipe = open_pipeline(folder(name), **({} if dtype is None else {"torch_dtype": dtype}))
    if device is not None:
        pipe.to(device)
    return pipe


def _reader(name: str) -> Any:
    """The module that opens a reader."""
    kind = "vision" if name.startswith("shapes-vit") else "language"
    return import_module(f"sinkscope.shapes.{kind}._pipeline")


def defaults(name: str = "shapes") -> dict[str, Any]:
    """Return the settings an embedded model is made for: steps, guidance scale and, for T5, text length."""
    from sinkscope.shapes._pipeline import ShapesPipeline, ShapesUnetPipeline

    if name in READERS:
        return {"num_inference_steps": 16 if name == "shapes-mdlm" else 1}
    if name not in EMBEDDED:
        raise unknown("embedded model", name, (*EMBEDDED, *READERS))
    kind = ShapesUnetPipeline if name == "shapes-unet" else ShapesPipeline
    return dict(kind.defaults)


def _existing(name: str, part: str) -> Path:
    if name not in _FOLDERS:
        raise unknown("embedded model", name, _FOLDERS)
    path = _FOLDERS[name] / part
    if not path.exists():
        command = "sinkscope.shapes.train" + (" --model unet" if name == "shapes-unet" else "")
        if name in READERS:
            kind = "vision" if name.startswith("shapes-vit") else "language"
            command = f"sinkscope.shapes.{kind}.train {name} --out {path.parent}"
        raise MissingWeightsError(
            f"The embedded model {name!r} is not in this installation: {part!r} is missing from "
            f"{path.parent}. Install sinkscope from a complete wheel or checkout, or train the model with "
            f"`python -m {command}`."
        )
    return path
