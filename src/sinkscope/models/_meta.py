"""Models without weights: from a name, folder or file to modules on the meta device.

Only configurations are read (`model_index.json` and each part's `config.json`), so a folder without any
weights works, and of a hub id nothing else is fetched.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import MissingWeightsError, UsageError
from ..shapes import READERS
from ._denoiser import DENOISERS, denoisers
from ._load import HUB_ID, load, locate, single_file_family, translated

_DEFAULT_PIPELINES = {
    "SD3Transformer2DModel": "StableDiffusion3Pipeline",
    "FluxTransformer2DModel": "FluxPipeline",
    "UNet2DConditionModel": "StableDiffusionPipeline",
}
"""Whose defaults count for a denoiser alone, where its class name does not tell the pipeline's."""


@dataclass(frozen=True)
class Skeleton:
    """Denoisers without weights, and what is known about the pipeline they belong to."""

    name: str
    components: dict[str, nn.Module]
    """Denoisers by component name; "" for a bare module."""
    pipeline: type | None
    """Class of the pipeline, None for a bare module whose pipeline is not known."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Configurations of the other parts, as far as they are there."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Class names of the modules that are no denoisers."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """What the pipeline is called with when nothing else is said, beyond the defaults of its class."""

    @property
    def roots(self) -> dict[str, nn.Module]:
        """Denoisers as the rest of this room names them."""
        return self.components

    @property
    def model(self) -> Any:
        """What the functions of this room take for a pipeline or a bare module."""
        return self.components[""] if "" in self.components else self


def skeleton(model: Any) -> Skeleton:
    """Build the denoisers of a model on the meta device, from configurations alone.

    Args:
        model: As in `load`; a pipeline or module that is built already is not touched.

    Raises:
        UsageError: the name means nothing, or the folder or file is of the wrong kind.
        MissingWeightsError: a configuration is missing, damaged or cannot be fetched.
    """
    if not isinstance(model, (str, Path)):
        return _of_built(model)
    name = str(model)
    if name in READERS:  # their classes are our own, and their weights are in this package
        return replace(_of_built(load(name)), name=name)
    place = locate(name)
    if isinstance(place, Path) and place.is_file():
        place = _repository_of(place)
    folder = place if isinstance(place, Path) else _fetched(place)
    what = f"No model can be built from the configurations of {name}"
    with translated(what, "Copy or download them again, complete."):
        made = _from_folder(name, folder)
    return replace(made, call=_embedded_defaults(name))


def _embedded_defaults(name: str) -> dict[str, Any]:
    shapes: Any = importlib.import_module("sinkscope.shapes")
    return dict(shapes.defaults(name)) if name in shapes.EMBEDDED else {}


# ---- what is there


def _of_built(model: Any) -> Skeleton:
    components = {part: _without_weights(root) for part, root in denoisers(model).items()}
    every = getattr(model, "components", None)
    every = every if isinstance(every, dict) else {}
    parts = {name: part for name, part in every.items() if isinstance(part, nn.Module)}
    configs = {name: dict(_config_of(part)) for name, part in parts.items() if name not in components}
    configs["vae"] = {**configs.get("vae", {}), **_factors_of(model)}
    others = {name: type(part).__name__ for name, part in parts.items() if name not in components}
    pipeline = type(model) if every else _pipeline_of(next(iter(components.values())))
    return Skeleton(type(model).__name__, components, pipeline, configs, others)


_FACTORS = {
    "scale_factor_spatial": (
        "vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_spatial_scale_factor",
        "vae_scale_factor", "movq_scale_factor",
    ),
    "scale_factor_temporal": (
        "vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor",
    ),
}  # fmt: skip
"""Pixels and frames per latent, as pipelines call them."""


def _factors_of(pipe: Any) -> dict[str, int]:
    found = {
        name: next((getattr(pipe, a) for a in known if hasattr(pipe, a)), None)
        for name, known in _FACTORS.items()
    }
    return {name: int(value) for name, value in found.items() if value}


def _config_of(part: nn.Module) -> Mapping[str, Any]:
    config = getattr(part, "config", {})
    return config if isinstance(config, Mapping) else config.to_dict()


def _without_weights(root: nn.Module) -> nn.Module:
    config = getattr(root, "config", None)
    kind: Any = type(root)
    if config is None or not (hasattr(kind, "from_config") or hasattr(kind, "_from_config")):
        raise UsageError(
            f"{kind.__name__} has no config, expected a model of diffusers or transformers. "
            "List its attention with sinkscope.sites(model)."
        )
    with torch.device("meta"):
        made = kind.from_config(config) if isinstance(config, Mapping) else kind._from_config(config)
    return made.eval()


def _fetched(repository: str) -> Path:
    """Folder of the hub's cache that holds the configurations of a repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    what = f"Model {repository!r} is no folder here, and its configuration could not be fetched from the hub"
    remedy = (
        "Check the name, log in if it is gated (`hf auth login`), or put its model_index.json and the "
        "config.json of each part into a folder."
    )
    with translated(what, remedy):
        try:
            index = Path(hf_hub_download(repository, "model_index.json"))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return Path(hf_hub_download(repository, "config.json")).parent
        for part in _parts(json.loads(index.read_text(encoding="utf-8"))):
            try:
                hf_hub_download(repository, f"{part}/config.json")
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                continue  # schedulers and tokenizers have none
        return index.parent


def _repository_of(path: Path) -> str:
    """Hub id whose configurations a single file is made for."""
    single_file: Any = importlib.import_module("diffusers.loaders.single_file_utils")
    family = single_file_family(path)
    known = single_file.DIFFUSERS_DEFAULT_PIPELINE_PATHS.get(family, {})
    repository = known.get("pretrained_model_name_or_path")
    if not isinstance(repository, str) or not HUB_ID.fullmatch(repository):
        raise UsageError(
            f"{path.name} looks like {family!r}, of which no configuration is known. Use a folder written by "
            "save_pretrained."
        )
    return repository


# ---- building


def _parts(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Component name to library and class, of those that are there."""
    return {
        name: (value[0], value[1])
        for name, value in index.items()
        if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] is not None
    }


def _from_folder(name: str, folder: Path) -> Skeleton:
    index = folder / "model_index.json"
    if not index.is_file():
        return _bare(name, folder)
    listed = json.loads(index.read_text(encoding="utf-8"))
    parts = _parts(listed)
    found = [part for part in DENOISERS if part in parts]
    if not found:
        raise UsageError(f"{name} has no denoiser: model_index.json names {', '.join(parts) or 'nothing'}.")
    components = {part: _built(folder / part, *parts[part]) for part in found}
    configs = {part: _read(folder / part / "config.json") for part in parts if part not in found}
    # Schedulers and tokenizers have no config.json of this name; they are no modules either.
    others = {part: parts[part][1] for part, config in configs.items() if config}
    kind = getattr(importlib.import_module("diffusers"), str(listed.get("_class_name")), None)
    return Skeleton(name, components, kind, configs, others)


def _bare(name: str, folder: Path) -> Skeleton:
    config = _read(folder / "config.json")
    if not config:
        raise UsageError(
            f"Folder {folder} holds no model: expected model_index.json or config.json, found neither."
        )
    kind = config.get("_class_name")
    library = "diffusers" if kind else "transformers"
    kind = kind or next(iter(config.get("architectures") or ["AutoModel"]))
    module = _built(folder, library, str(kind))
    return Skeleton(name, {"": module}, _pipeline_of(module))


def _built(folder: Path, library: str, kind: str) -> nn.Module:
    if not (folder / "config.json").is_file():
        raise MissingWeightsError(
            f"{folder.name}/config.json is missing, which says how {kind} is built. "
            "Copy or download it again."
        )
    module = importlib.import_module(library if library in ("diffusers", "transformers") else "diffusers")
    made: Any = getattr(module, kind, None)
    if made is None:
        raise UsageError(
            f"{kind} is no class of {library} {getattr(module, '__version__', '')}. "
            "A newer version may have it."
        )
    with torch.device("meta"):
        if hasattr(made, "load_config") and hasattr(made, "from_config"):
            return made.from_config(made.load_config(str(folder))).eval()
        config = importlib.import_module("transformers").AutoConfig.from_pretrained(str(folder))
        return (made.from_config if hasattr(made, "from_config") else made._from_config)(config).eval()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _pipeline_of(module: nn.Module) -> type | None:
    """Pipeline class a bare denoiser is usually called by, by name."""
    diffusers: Any = importlib.import_module("diffusers")
    kind = type(module).__name__
    stem = kind.split("Transformer")[0]
    names = (_DEFAULT_PIPELINES.get(kind), f"{stem}Pipeline", f"{stem}ImagePipeline", f"{stem}SigmaPipeline")
    found = (getattr(diffusers, name) for name in names if name and hasattr(diffusers, name))
    return next((pipeline for pipeline in found if inspect.isclass(pipeline)), None)


__all__ = ["Skeleton", "skeleton"]
