"""The kinds of weights that can be converted, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from sinkscope.errors import UsageError, unknown

from .._weights import weights_folder


@dataclass(frozen=True)
class Converter:
    """One kind of weights."""

    sources: tuple[str, ...]
    """What to give, in order."""
    folder: str
    """Name of the folder below the weights folder; empty where a target must be given."""
    module: str
    """Private module with `convert(sources, target, tokenizer=)`."""
    tokenizer: str = ""
    """Hub id whose tokenizer files go along; empty where none is needed."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further keyword arguments of the module's `convert`."""


VIT_H_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

KINDS: dict[str, Converter] = {
    "lpips-alex": Converter(
        ("alexnet-owt-7be5be79.pth", "alex.pth"), "lpips-alex", "_lpips", options={"net": "alex"}
    ),
    "lpips-vgg": Converter(("vgg16-397923af.pth", "vgg.pth"), "lpips-vgg", "_lpips", options={"net": "vgg"}),
    "hps": Converter(("HPS_v2.1_compressed.pt",), "hps-v2.1", "_hps", VIT_H_TOKENIZER, {"version": "2.1"}),
    "hps-v2.0": Converter(("HPS_v2_compressed.pt",), "hps-v2.0", "_hps", VIT_H_TOKENIZER, {"version": "2.0"}),
    "imagereward": Converter(
        ("ImageReward.pt", "med_config.json"),
        "imagereward-v1.0",
        "_imagereward",
        "google-bert/bert-base-uncased",
    ),
    "geneval": Converter(
        ("mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth",),
        "geneval-detector",
        "_mask2former",
    ),
    "hf": Converter(("a folder with config.json and pytorch_model.bin",), "", "_hf"),
}


def convert(
    kind: str,
    sources: Sequence[str | Path],
    folder: str | Path | None = None,
    *,
    tokenizer: str | None = None,
) -> Path:
    """Convert released weights and return the folder they are in.

    Args:
        kind: A name of `KINDS`.
        sources: The released files, in the order `KINDS` names them.
        folder: Where to write; None: the place where the metric looks.
        tokenizer: Folder or hub id of the tokenizer, where one goes along; None: the released one's.

    Raises:
        UsageError: An unknown kind, a wrong number of files, or a file that holds something else.
        MissingWeightsError: The tokenizer is not on this machine.
    """
    if kind not in KINDS:
        raise unknown("kind of weights", kind, KINDS)
    about = KINDS[kind]
    paths = [Path(source) for source in sources]
    if len(paths) != len(about.sources):
        raise UsageError(
            f"Got {len(paths)} files for {kind!r}, expected {len(about.sources)}: {', '.join(about.sources)}."
        )
    if absent := [str(path) for path in paths if not path.exists()]:
        raise UsageError(f"No such file: {', '.join(absent)}. Give the released {', '.join(about.sources)}.")
    if folder is None and not about.folder:
        raise UsageError(
            f"Converting {kind!r} needs a folder to write to: sinkscope convert {kind} SOURCE --out FOLDER."
        )
    target = weights_folder() / about.folder if folder is None else Path(folder)
    work: Callable[..., None] = import_module(f"{__package__}.{about.module}").convert
    given = {"tokenizer": tokenizer or about.tokenizer} if about.tokenizer else {}
    work(paths, target, **about.options, **given)
    return target
