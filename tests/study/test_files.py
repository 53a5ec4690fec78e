"""Files that are whole or absent, and errors that say what is kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from sinkscope.errors import StoreError
from sinkscope.study import _files


def test_a_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    _files.write_bytes(path, b"one")
    sha = _files.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert sha == _files.digest(b"two")
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permissions")])
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, words: str
) -> None:
    path = tmp_path / "file"
    _files.write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreError, match=f"{words}.*") as caught:
        _files.write_bytes(path, b"new")
    monkeypatch.undo()
    assert "kept" in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(prefix: str, dir: Path) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(tmp_path / "never-made")

    monkeypatch.setattr(_files.tempfile, "mkstemp", full)
    with pytest.raises(StoreError, match="disk is full"):
        _files.write_bytes(tmp_path / "file", b"data")
    assert not (tmp_path / "file").exists()


def test_truncated_files_are_named(tmp_path: Path) -> None:
    _files.write_table(tmp_path / "t.parquet", pd.DataFrame({"a": range(100)}))
    _files.write_bytes(tmp_path / "i.png", _files.image_bytes(Image.new("RGB", (16, 16), "red")))
    for name in ("t.parquet", "i.png"):
        data = (tmp_path / name).read_bytes()
        for size in (0, 3, len(data) // 2):
            (tmp_path / name).write_bytes(data[:size])
            with pytest.raises(StoreError, match=f"{name} is .*damaged"):
                _files.read_table(tmp_path / name) if name[0] == "t" else _files.read_image(tmp_path / name)
    with pytest.raises(StoreError, match="missing"):
        _files.read_table(tmp_path / "none.parquet")


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    assert _files.write_table(tmp_path / "1", frame) == _files.write_table(tmp_path / "2", frame.copy())
    image = Image.new("RGB", (8, 8), "blue")
    assert _files.image_bytes(image) == _files.image_bytes(image.copy())
