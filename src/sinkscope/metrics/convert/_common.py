"""Reading pickles safely and writing converted folders whole or not at all."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sinkscope._version import __version__
from sinkscope.errors import StoreError, UsageError

from .._files import sha256
from .._weights import PROVENANCE, hub_folder

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
)


class Part(NamedTuple):
    """One model of a converted folder."""

    state: Mapping[str, Tensor]
    config: Mapping[str, Any] | None
    """Of transformers; None where the metric knows the shape itself."""
    file: str = "model.safetensors"


def load_pickle(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a released file, without running any of its code.

    A dictionary of tensors may lie below the key "state_dict" or "model".

    Raises:
        UsageError: The file is none, is damaged, or holds more than tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_zipped(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, AttributeError) as error:
        first = str(error).partition("\n")[0][:200]
        raise UsageError(
            f"{path} cannot be read as a file of tensors alone ({first}). Fetch the released file again."
        ) from error
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _zipped(path: Path) -> bool:
    """Only the format since PyTorch 1.6, a zip file, can be mapped instead of read."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def take(state: Mapping[str, Tensor], key: str, path: Path, what: str) -> Tensor:
    """Return one tensor, or say that the file is for something else."""
    if key not in state:
        raise UsageError(
            f"{path.name} has no tensor {key!r} among its {len(state)}: it is not {what}. Name the "
            "right file."
        )
    return state[key]


def tokenizer_files(named: str) -> list[Path]:
    """Tokenizer files of a folder or hub id; raises where there are none."""
    folder = (
        Path(named) if Path(named).is_dir() else hub_folder(named, download=False, size="tokenizer, 2 MB")
    )
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not {"tokenizer.json", "vocab.json", "vocab.txt"} & {path.name for path in files}:
        raise UsageError(
            f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt, or vocab.txt."
        )
    return files


def write_folder(
    target: Path,
    parts: Mapping[str, Part],
    about: Mapping[str, Any],
    sources: Sequence[Path],
    extra: Sequence[Path] = (),
) -> None:
    """Write the parts (subfolder -> part, "" is the folder itself), tokenizer files and the provenance.

    The folder appears whole or not at all; one that an earlier conversion wrote is replaced.
    """
    made = {
        **about,
        "source": [{"file": path.name, "sha256": sha256([path])} for path in sources if path.is_file()],
        "converted_by": f"sinkscope {__version__}",
    }
    if target.exists() and not (target / PROVENANCE).is_file() and any(target.iterdir()):
        raise UsageError(f"{target} holds something else. Give a new or empty folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
        try:
            for name, part in parts.items():
                _write_part(work / name, part)
            (work / PROVENANCE).write_text(json.dumps(made, indent=1), encoding="utf-8")
            for path in extra:
                shutil.copyfile(path, work / path.name)
            work.chmod(0o755)
            if target.exists():
                shutil.rmtree(target)
            work.replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"Could not write {target}: {reason}. Free space or give another folder.") from error


def _write_part(folder: Path, part: Part) -> None:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    tensors = {name: value.contiguous() for name, value in part.state.items()}
    save_file(tensors, folder / part.file, metadata={"format": "pt"})
    if part.config is not None:
        (folder / "config.json").write_text(json.dumps(part.config, indent=1), encoding="utf-8")
