"""Getting a pipeline from a name.

"shapes" and "shapes-unet" are the embedded models that paint, `shapes.READERS` those that read; a built
pipeline or module passes through; a folder, a hub id or a single `.safetensors` file goes to diffusers. Only
safetensors are read: pickled checkpoints could run code. What goes wrong is said in one sentence, with the
report of diffusers as its cause.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import MissingDependencyError, MissingWeightsError, SinkscopeError, UsageError, unknown
from ..shapes import EMBEDDED, READERS

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SINGLE_FILE = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
}


def load(
    model: Any, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Any:
    """Return a pipeline, or a bare denoiser, ready to be observed.

    Args:
        model: "shapes", "shapes-unet" or one of the embedded readers (`shapes.READERS`), a hub id, a folder
            written by `save_pretrained` (of a pipeline or a denoiser), one `.safetensors` checkpoint, or a
            pipeline or module that is built already.
        device: Where to put it; None leaves it where it is.
        dtype: Floating-point type or its name, for example "bfloat16"; None keeps the stored one.

    Raises:
        UsageError: the name means nothing, or the folder or file is of the wrong kind.
        MissingWeightsError: files are missing, damaged or cannot be fetched.
        MissingDependencyError: a package the model needs is not installed.
    """
    dtype = _dtype(dtype)
    if not isinstance(model, (str, Path)):
        return _moved(_checked(model), device, dtype)
    name = str(model)
    if name in (*EMBEDDED, *READERS):
        shapes: Any = importlib.import_module("sinkscope.shapes")
        return shapes.load(name, device=device, dtype=dtype)
    place = locate(name)
    if isinstance(place, str):
        return _moved(_from_hub(place, dtype), device, None)
    return _moved((_from_folder if place.is_dir() else _from_file)(place, dtype), device, None)


def locate(name: str) -> Path | str:
    """Where a model named by a string lies: a folder or file here, or a hub id.

    Raises:
        UsageError: neither of them.
    """
    if name in (*EMBEDDED, *READERS):
        shapes: Any = importlib.import_module("sinkscope.shapes")
        return Path(shapes.folder(name))
    path = Path(name).expanduser()
    if path.is_dir() or path.is_file():
        return path
    if path.is_absolute() or path.suffix == ".safetensors" or name.startswith((".", "~")):
        raise UsageError(
            f"Model {name!r} does not exist. Expected 'shapes', 'shapes-unet', a folder written by "
            "save_pretrained, a .safetensors file or a hub id."
        )
    if not HUB_ID.fullmatch(name):
        raise unknown("model", name, [*EMBEDDED, *READERS, "owner/name on the hub", "a folder"])
    return name


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if not isinstance(dtype, str):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise unknown("dtype", dtype, ["float32", "bfloat16", "float16", "float64"])
    return found


def _checked(model: Any) -> Any:
    if isinstance(model, nn.Module) or isinstance(getattr(model, "components", None), dict):
        return model
    raise UsageError(
        f"Got {type(model).__name__}, expected 'shapes', 'shapes-unet', a hub id, a folder, a .safetensors "
        "file, a pipeline or a torch module."
    )


def _moved(model: Any, device: Any, dtype: torch.dtype | None) -> Any:
    wanted = [value for value in (device, dtype) if value is not None]
    return model.to(*wanted) if wanted else model


@contextmanager
def translated(what: str, remedy: str) -> Iterator[None]:
    """Say in one sentence what diffusers and transformers raise for missing, damaged or mismatching files."""
    from safetensors import SafetensorError

    try:
        yield
    except SinkscopeError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"{what}: it needs a package that is not installed. {_first_line(error)}"
        ) from error
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise MissingWeightsError(f"{what}: {_first_line(error)} {remedy}") from error


def _from_folder(folder: Path, dtype: torch.dtype | None) -> Any:
    index, config = folder / "model_index.json", folder / "config.json"
    if (folder / "modular_model_index.json").is_file() and not index.is_file():
        raise UsageError(
            f"Folder {folder} holds a modular pipeline, expected a pipeline or a denoiser. Build it with "
            "diffusers.ModularPipeline.from_pretrained(folder) and load_components(), and pass what you get: "
            "observe and intervene follow it."
        )
    if not index.is_file() and not config.is_file():
        there = ", ".join(sorted(part.name for part in folder.iterdir())[:8]) or "nothing"
        raise UsageError(
            f"Folder {folder} holds no pipeline: expected model_index.json (or config.json of a denoiser), "
            f"found {there}. Write one with pipe.save_pretrained(folder)."
        )
    diffusers: Any = importlib.import_module("diffusers")
    what = f"The model in {folder} cannot be loaded"
    with translated(what, "Copy or download it again, complete and as safetensors."):
        if index.is_file():
            _require_parts(folder, json.loads(index.read_text()))
            return diffusers.DiffusionPipeline.from_pretrained(
                str(folder), local_files_only=True, **_options(dtype)
            )
        own = _transformers_class(json.loads(config.read_text()))
        if own is not None:
            options = {"use_safetensors": True, **({} if dtype is None else {"dtype": dtype})}
            return own.from_pretrained(str(folder), local_files_only=True, **options).eval()
        return diffusers.AutoModel.from_pretrained(str(folder), local_files_only=True, **_options(dtype))


def _transformers_class(config: dict[str, Any]) -> Any:
    """The class of transformers that a configuration names, with its heads; None for a denoiser."""
    named = config.get("architectures") or [None]
    if "_class_name" in config or not isinstance(named[0], str):
        return None
    transformers: Any = importlib.import_module("transformers")
    return getattr(transformers, named[0], None)


def _require_parts(folder: Path, index: dict[str, Any]) -> None:
    """diffusers takes the name of an absent subfolder for a hub id; say what is absent instead."""
    parts = [
        name for name, value in index.items() if isinstance(value, list) and value and value[0] is not None
    ]
    absent = [name for name in parts if not (folder / name).is_dir()]
    if absent:
        raise FileNotFoundError(
            f"model_index.json names {', '.join(absent)}, but there is no such subfolder."
        )


_REMEDY = (
    "Configurations and text encoders that the file lacks are fetched from the hub; without a network "
    "use a folder written by save_pretrained."
)


def single_file_family(path: Path) -> str:
    """What diffusers takes a checkpoint for, by the names and shapes in it; no weights are read.

    Raises:
        UsageError: not a `.safetensors` file, or of a family that cannot be loaded from one file.
        MissingWeightsError: the file is damaged.
    """
    if path.suffix != ".safetensors":
        raise UsageError(
            f"{path.name} is a {path.suffix or 'plain'} file, expected .safetensors or a folder. "
            "Pickled checkpoints can run code and are refused."
        )
    from safetensors import safe_open

    single_file: Any = importlib.import_module("diffusers.loaders.single_file_utils")
    with translated(f"{path} cannot be loaded as a pipeline", _REMEDY):
        with safe_open(str(path), framework="pt") as checkpoint:
            # Only names and shapes decide; "meta" keeps the weights on disk.
            shapes = {
                name: torch.empty(checkpoint.get_slice(name).get_shape(), device="meta")
                for name in checkpoint.keys()
            }
        family = str(single_file.infer_diffusers_model_type(shapes))
        if family not in _SINGLE_FILE:
            raise UsageError(
                f"{path.name} looks like {family!r}, which cannot be loaded from one file here; expected "
                f"one of {', '.join(_SINGLE_FILE)}. Use a folder written by save_pretrained."
            )
    return family


def _from_file(path: Path, dtype: torch.dtype | None) -> Any:
    family = single_file_family(path)
    diffusers: Any = importlib.import_module("diffusers")
    with translated(f"{path} cannot be loaded as a pipeline", _REMEDY):
        return getattr(diffusers, _SINGLE_FILE[family]).from_single_file(str(path), **_options(dtype))


def _from_hub(name: str, dtype: torch.dtype | None) -> Any:
    diffusers: Any = importlib.import_module("diffusers")
    what = f"Model {name!r} is neither a folder here nor could it be fetched from the hub"
    remedy = (
        "Check the name, log in if it is gated (`hf auth login`), or fetch it where there is a network with "
        f"`hf download {name}`."
    )
    with translated(what, remedy):
        return diffusers.DiffusionPipeline.from_pretrained(name, **_options(dtype))


def _options(dtype: torch.dtype | None) -> dict[str, Any]:
    from diffusers.utils import deprecation_utils

    # Newer releases of diffusers renamed the argument and warn about the old name.
    name = "dtype" if hasattr(deprecation_utils, "_TORCH_DTYPE_DEPRECATION_MESSAGE") else "torch_dtype"
    return {"use_safetensors": True, **({} if dtype is None else {name: dtype})}


def _first_line(error: Exception) -> str:
    line = next((part.strip() for part in str(error).splitlines() if part.strip()), type(error).__name__)
    return line if line.endswith(".") else f"{line}."
