"""Files that are either whole or absent.

Guarantees: a reader never sees half a file, because bytes go to a temporary name in the same folder, are
flushed to the disk (`fsync`) and renamed (`os.replace`); a failed write leaves the old file and no temporary
one. A killed process may leave a temporary file behind, whose name starts with ".tmp-" and which nothing
reads. Out of scope: disks that lie about `fsync`. Every failure is a `StoreError` that says what is kept and
what to do.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from PIL import Image

from sinkscope.errors import StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT}


def digest(data: bytes) -> str:
    """SHA-256 of some bytes, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def write_bytes(path: Path, data: bytes) -> str:
    """Write a file atomically and return its SHA-256.

    Raises:
        StoreError: The disk is full, the folder is read-only, or the system refused for another reason.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
    return digest(data)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable (a no-op on systems whose folders cannot be opened)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_error(path: Path, error: OSError) -> StoreError:
    keep = "Everything finished before is kept; the same command continues from there."
    if error.errno in _FULL:
        return StoreError(f"The disk is full: could not write {path}{_free(path)}. Free some space. {keep}")
    return StoreError(
        f"Could not write {path}: {error.strerror or error}. Check the folder's permissions. {keep}"
    )


def _free(path: Path) -> str:
    """The free space near `path` as words, or nothing where the system does not tell."""
    try:
        return f" ({shutil.disk_usage(path.parent).free / 2**20:.1f} MiB free)"
    except OSError:
        return ""


def read_bytes(path: Path) -> bytes:
    """Read a file, with a `StoreError` where it is missing or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(
            f"{path} is missing. Run the same study into this folder again to make it."
        ) from error
    except OSError as error:
        raise StoreError(f"Could not read {path}: {error.strerror or error}.") from error


def has_digest(path: Path, expected: str) -> bool:
    """True when the file exists and its content is exactly what was written."""
    return path.is_file() and digest(read_bytes(path)) == expected


def write_table(path: Path, frame: pd.DataFrame) -> str:
    """Write a parquet file atomically and return its SHA-256. Equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression="zstd", **_encoding(frame))
    return write_bytes(path, buffer.getvalue())


def _encoding(frame: pd.DataFrame) -> dict[str, Any]:
    """Columns of measured numbers are stored by byte planes, a third smaller than as a dictionary of values
    that hardly repeat."""
    floats = [name for name in frame if str(frame[name].dtype) in ("float32", "float64")]
    measured = [name for name in floats if 4 * frame[name].nunique() > max(len(frame), 1)]
    others = [name for name in frame if name not in measured]
    return {"use_dictionary": others, "use_byte_stream_split": measured} if measured else {}


def read_table(path: Path) -> pd.DataFrame:
    """Read a parquet file.

    Raises:
        StoreError: The file is missing or damaged (for example cut off).
    """
    import pyarrow as pa

    data = read_bytes(path)
    try:
        return pd.read_parquet(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged ({len(data)} bytes, {error}). The rest of the folder is untouched; "
            "run the same study into this folder again to rebuild it."
        ) from error


def image_bytes(image: Image.Image) -> bytes:
    """An image as PNG (lossless; the same pixels always give the same bytes)."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def read_image(path: Path) -> Image.Image:
    """Read a PNG completely, as RGB.

    Raises:
        StoreError: The file is missing or damaged.
    """
    data = read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise StoreError(
            f"{path} is a damaged image ({len(data)} bytes: {error}). Run the same study into this folder "
            "again: "
            "only the damaged images are generated anew."
        ) from error


def canonical(value: Any) -> str:
    """JSON with sorted keys, the text that hashes are made of."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def write_yaml(path: Path, value: Mapping[str, Any]) -> str:
    """Write plain data as YAML, keys in the order given."""
    return write_bytes(path, dump_yaml(value).encode())


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Plain data as YAML text, keys in the order given."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(dict(value), Dumper=dumper, sort_keys=False, allow_unicode=True, width=110)
    return str(text)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        StoreError: The file is missing, is no YAML, or holds something other than a mapping.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = yaml.load(read_bytes(path), Loader=loader)
    except yaml.YAMLError as error:
        raise StoreError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path} holds {type(value).__name__}, expected a mapping of settings.")
    return value
