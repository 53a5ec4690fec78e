"""A transformers checkpoint that comes as `pytorch_model.bin` only: the same tensors as safetensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sinkscope.errors import UsageError

from ._common import TOKENIZER_FILES, Part, load_pickle, write_folder

_ALSO = ("preprocessor_config.json", "processor_config.json", "spiece.model")


def convert(sources: Sequence[Path], target: Path) -> None:
    """Write `target` from a folder; several `.bin` files become one."""
    folder = sources[0]
    pickles = sorted(folder.glob("pytorch_model*.bin")) if folder.is_dir() else []
    if not pickles or not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} is no folder with config.json and pytorch_model.bin. Give a transformers checkpoint."
        )
    state: dict[str, Tensor] = {}
    for path in pickles:
        state |= load_pickle(path)
    # Tied tensors share storage, which safetensors does not write.
    state = {name: value.clone() for name, value in state.items()}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    extra = [path for name in (*TOKENIZER_FILES, *_ALSO) if (path := folder / name).is_file()]
    write_folder(target, {"": Part(state, config)}, {"metric": None}, pickles, extra)
