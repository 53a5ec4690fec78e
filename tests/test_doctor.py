"""`sinkscope doctor` names what is absent or too old as pip is asked for it."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from sinkscope import _doctor, cli


def test_versions_that_are_too_old_or_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "rich":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.34.2" if name == "diffusers" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "0.34.2, but sinkscope needs >=0.35" in out
    assert "missing or too old: diffusers>=0.35, rich>=13" in out
    assert "pip install 'diffusers>=0.35' 'rich>=13'" in out


def test_every_core_package_has_a_lowest_version() -> None:
    needed = _doctor._needed()
    assert set(_doctor.CORE) == {name for name in needed if name in _doctor.CORE}


def test_a_checkout_that_is_not_installed_asks_for_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert _doctor._needed() == {}
    assert list(_doctor._packages()) == []
