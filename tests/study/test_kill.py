"""A run that is killed with SIGKILL in the middle, and then resumed, ends with the same bytes as one that was
left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.study.small import results

from sinkscope.study import Run

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from sinkscope.study import run
from tests.study.small import tiny_study
from tests.tiny import tiny_sd3
run(tiny_study(), sys.argv[1], pipe=tiny_sd3(), progress=False)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=ROOT, env=environment)


def wait_for(count: int, folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Until `count` tasks are finished."""
    deadline = time.monotonic() + 200
    while len(list(folder.glob("shards/*/*/done.json"))) < count:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(
    finished: Run, tmp_path: Path, again: Callable[..., Run]
) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    wait_for(5, folder, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done, total = Run.open(folder).progress()
    assert 8 <= done < total
    again(folder)
    assert results(folder) == results(finished.folder)
