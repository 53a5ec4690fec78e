"""Checkpoint files: their hash, and the message for a file that is not there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def sha256(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the hashes of several in order of their names."""
    hashes = [_sha256(path, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(files)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def formula_identity(name: str, preprocess: str, *packages: str) -> dict[str, Any]:
    """What decides the numbers of a metric that is a formula: no weights, float64."""
    return {
        "metric": name,
        "backend": "sinkscope (numpy)",
        "checkpoint": None,
        "sha256": None,
        "dtype": "float64",
        "preprocess": preprocess,
        "versions": versions(*packages),
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each package, "absent" where it is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


@lru_cache(maxsize=64)
def _sha256(path: Path, changed_ns: int, size: int) -> str:
    # The time and size of the file are arguments so that a replaced file is hashed again.
    del changed_ns, size
    real = path.resolve()
    # The hub's cache names large files by their SHA-256: no need to read gigabytes once more.
    if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
