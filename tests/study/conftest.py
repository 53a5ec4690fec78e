"""A tiny pipeline, and one finished run that tests copy instead of making their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.study.small import tiny_study
from tests.tiny import tiny_sd3

from sinkscope.study import Run, run


@pytest.fixture(scope="session")
def pipe() -> Any:
    return tiny_sd3()


@pytest.fixture(scope="session")
def finished(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; read only."""
    return run(tiny_study(), tmp_path_factory.mktemp("finished") / "run", pipe=pipe, progress=False)


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    """A finished run that a test may damage."""
    return Run(shutil.copytree(finished.folder, tmp_path / "run"))


@pytest.fixture
def again(pipe: Any) -> Callable[..., Run]:
    """Run the tiny study into a folder again."""
    return lambda folder, **changes: run(tiny_study(**changes), folder, pipe=pipe, progress=False)
