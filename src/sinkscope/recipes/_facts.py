"""What a preset has to know of a model before it is loaded: depth, heads, tokens.

Read from the configuration files of a local folder or of the hub's cache. The embedded models and those of
the paper are written down here, so that a plan can be made where their weights are not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sinkscope.errors import UsageError

SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
EMBEDDED = ("shapes", "shapes-unet")
READERS = ("shapes-lm", "shapes-mdlm", "shapes-vit", "shapes-vit-registers")
_T5_TEXT = 256
"""T5 positions of SD3's pipeline unless told otherwise."""


@dataclass(frozen=True)
class Facts:
    """A model as presets see it."""

    name: str
    family: Literal["joint", "unet", "language", "vision"]
    """Joint attention of image and text, a UNet with self- and cross-attention, or a model that reads texts
    or pictures."""
    layers: int
    """Blocks with attention; of a UNet those of the middle block."""
    heads: int
    """Heads of a joint block, or of the middle block."""
    image: int
    """Image tokens, of a UNet those of the middle block, at the pipeline's own size."""
    text: int
    """Text tokens."""
    guidance: float
    """The pipeline's own guidance scale."""

    @property
    def embedded(self) -> bool:
        """Whether it is one of the models in this package, which know coloured shapes only."""
        return self.name in EMBEDDED

    @property
    def keys(self) -> int:
        """Keys of a joint site; of a UNet those of its smaller site, self- or cross-attention."""
        return self.image + self.text if self.family == "joint" else min(self.image, self.text)


KNOWN = {
    SD3: Facts(SD3, "joint", layers=24, heads=24, image=4096, text=333, guidance=7.0),
    SDXL: Facts(SDXL, "unet", layers=10, heads=20, image=1024, text=77, guidance=5.0),
}


def facts(model: str) -> Facts:
    """Depth, heads and tokens of a model by name, without its weights.

    Raises:
        UsageError: Nothing is known of the model, or it is of neither kind.
    """
    if model in KNOWN:
        return KNOWN[model]
    if model in EMBEDDED:
        return _embedded(model)
    if model in READERS:
        return _reader(model)
    folder = _folder(model)
    index = _json(folder / "model_index.json")
    part = "unet" if "unet" in index else "transformer"
    config = _json(folder / part / "config.json")
    if part == "unet" and "mid_block_type" in config:
        return _unet(model, folder, config)
    if part == "transformer" and config.get("joint_attention_dim"):
        return _joint(model, folder, config)
    raise UsageError(
        f"Presets are made for joint attention (SD3, FLUX) and for UNets (SDXL); {model!r} is a "
        f"{index.get('_class_name')} with a {config.get('_class_name')}. Use `sinkscope run --model` for its "
        "default arms, or write a study."
    )


def _embedded(name: str) -> Facts:
    """An embedded model; its guidance is what it is shipped with."""
    from sinkscope import shapes

    guidance = float(shapes.defaults(name)["guidance_scale"])
    if name == "shapes":
        return Facts(name, "joint", layers=6, heads=4, image=64, text=32, guidance=guidance)
    return Facts(name, "unet", layers=4, heads=4, image=64, text=16, guidance=guidance)


def _reader(name: str) -> Facts:
    """An embedded model that reads: no guidance, no painting."""
    if name.startswith("shapes-vit"):
        return Facts(name, "vision", layers=4, heads=4, image=64, text=0, guidance=1.0)
    return Facts(name, "language", layers=4, heads=4, image=0, text=64, guidance=1.0)


def _joint(name: str, folder: Path, config: dict[str, Any]) -> Facts:
    layers = int(config["num_layers"]) + int(config.get("num_single_layers") or 0)
    side = int(config.get("sample_size") or 128) // int(config.get("patch_size") or 1)
    clip = _json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77)
    heads = int(config["num_attention_heads"])
    return Facts(name, "joint", layers, heads, image=side**2, text=int(clip) + _T5_TEXT, guidance=7.0)


def _unet(name: str, folder: Path, config: dict[str, Any]) -> Facts:
    blocks = config["down_block_types"]
    depth, heads = _last(config.get("transformer_layers_per_block", 1)), _last(config["attention_head_dim"])
    side = int(config["sample_size"]) >> (len(blocks) - 1)
    clip = _json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77)
    return Facts(name, "unet", depth, heads, image=side**2, text=int(clip), guidance=5.0)


def _last(value: Any) -> int:
    while isinstance(value, (list, tuple)):
        value = value[-1]
    return int(value)


def _folder(model: str) -> Path:
    """Where the configuration files of a model are."""
    folder = Path(model).expanduser()
    if (folder / "model_index.json").is_file():
        return folder
    found = _cached(model)
    if found is None:
        raise UsageError(
            f"Cannot plan for {model!r}: it is no folder with a model_index.json, and its configuration is "
            f"not in the hub's cache. Fetch it where there is a network (`hf download {model}`), or give a "
            "folder written by save_pretrained."
        )
    return found


def _cached(model: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "model_index.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"Cannot plan for the model: {path} is missing or damaged ({error}). Complete the folder."
        ) from error
    return data if isinstance(data, dict) else {}
