from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
from tests.report import fake_run


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The writer of synthetic run folders."""
    return fake_run


@pytest.fixture(scope="session")
def whole_run(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete small run folder with its report; read only."""
    from sinkscope.report import build

    folder = fake.make(tmp_path_factory.mktemp("whole") / "run", n_prompts=12, steps=4, layers=3)
    build(folder)
    return Path(folder)


@pytest.fixture(scope="session")
def lean_run(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest run with every part, without its report; read only."""
    folder = tmp_path_factory.mktemp("lean") / "run"
    size = {"n_prompts": 6, "steps": 2, "layers": 2, "side": 24, "trace_units": 2}
    return Path(fake.make(folder, budgets=(1,), metrics=("clip_t", "rmse"), **size))


@pytest.fixture
def run_folder(lean_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run folder that a test may damage."""
    return Path(shutil.copytree(lean_run, tmp_path / "run"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their figures, for tests of words: drawing takes most of the time."""
    monkeypatch.setattr("sinkscope.report._page.to_svg", lambda figure, name: "<svg></svg>")
