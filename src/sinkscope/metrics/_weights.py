"""Where weights lie, that each checkpoint is loaded once in a process, and what is said when one is not here.

Metrics read safetensors only. Released pickles (`.pt`, `.pth`, `.bin`) go through `sinkscope convert` first,
which reads them with `weights_only=True`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from threading import RLock
from typing import Any

from sinkscope.errors import MissingDependencyError, MissingWeightsError, UsageError

from ._batches import empty_cache, out_of_memory
from ._protocol import MetricInfo

ENVIRONMENT = "SINKSCOPE_WEIGHTS"
"""Names the folder that `sinkscope convert` writes to and metrics search."""

PROVENANCE = "sinkscope.json"
"""In a converted folder: which metric it is for, made from which file with which SHA-256."""

HUB_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors")

_log = logging.getLogger("sinkscope.metrics")
_loaded: dict[Hashable, Any] = {}
_lock = RLock()


class AbsentWeightsError(MissingWeightsError):
    """Weights that are not on this machine: which files, how large, and the commands that fetch them.

    Args:
        reason: The metric, the missing files and their sizes.
        how: The commands.
    """

    def __init__(self, reason: str, how: str) -> None:
        super().__init__(f"{reason} {how}")
        self.reason, self.how = reason, how


def weights_folder() -> Path:
    """Folder of converted weights: `SINKSCOPE_WEIGHTS`, or `sinkscope/weights` in the user's cache."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "sinkscope" / "weights"


def hub_folder(name: str, *, download: bool, size: str = "") -> Path:
    """Return the snapshot folder of a hub id.

    Raises:
        UsageError: `name` is neither a folder nor a hub id.
        AbsentWeightsError: The snapshot is not on this machine, or could not be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, local_files_only=not download, allow_patterns=list(HUB_FILES))
    except HFValidationError as error:
        raise UsageError(
            f"Got checkpoint {name!r}: no such folder, and not a hub id like 'owner/name'."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise AbsentWeightsError(
            f"Checkpoint {name!r}{f' ({size})' if size else ''} is not on this machine.",
            f"Fetch it with: hf download {name} (or pass download=True, or name a local folder).",
        ) from error
    return Path(found)


def provenance(folder: Path) -> dict[str, Any]:
    """What a converted folder says of itself; empty for any other folder."""
    path = folder / PROVENANCE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not readable JSON ({error}). Convert the weights again.") from error
    return content if isinstance(content, dict) else {}


def once(kind: str, files: Sequence[Path], setting: Hashable, build: Callable[[], Any]) -> Any:
    """Return what `build` makes of some files, built once in a process.

    Args:
        kind: What is built; two kinds may use one file.
        files: The files it is read from. A file that was replaced is read again.
        setting: Device, dtype and whatever else makes a difference.
        build: Called the first time. Where memory does not suffice, all other checkpoints are forgotten and
            it is called once more.
    """
    stats = tuple((str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    key = (kind, stats, setting)
    with _lock:
        if key not in _loaded:
            _loaded[key] = _built(build)
        return _loaded[key]


def _built(build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or not _loaded:
            raise
    # Outside the handler: the exception keeps what was half loaded alive.
    _log.warning("out of memory while loading a checkpoint; the others are released")
    release()
    empty_cache()
    return build()


def release() -> None:
    """Forget every loaded checkpoint, so that its memory is free once no metric uses it any more."""
    with _lock:
        _loaded.clear()


def looked(name: str, look: Callable[[], object]) -> MetricInfo:
    """Whether the weights of a metric are here, for the doctor; `look` raises where they are not."""
    try:
        look()
    except AbsentWeightsError as error:
        return MetricInfo(name, "missing", reason=error.reason, how=error.how)
    except (MissingWeightsError, MissingDependencyError, UsageError) as error:
        return MetricInfo(name, "broken", reason=str(error), how="Mend or replace the weights.")
    return MetricInfo(name, "ready")
