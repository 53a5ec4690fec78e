"""A study that fits the tiny SD3 pipeline, and the bytes of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sinkscope.attention import TopMass
from sinkscope.models import Edit
from sinkscope.study import Study

TEXTS = ("a cat", "a dog", "a red hat", "two cats", "x y z")
SINK = Edit(TopMass(keys_per_head=1))
SINKS = Edit(TopMass(keys_per_head=3))
ARMS = {
    "null": SINK.control("null"),
    "sink_1": SINK,
    "random_1": SINK.control("count"),
    "sink_3": SINKS,
    "random_3": SINKS.control("count"),
}


def tiny_study(**changes: Any) -> Study:
    """5 units in batches of 2 (the last one smaller), 6 arms, 2 steps, 16 pixels."""
    settings: dict[str, Any] = {"model": "tiny", "prompts": TEXTS, "arms": ARMS, "metrics": ("ssim", "rmse")}
    settings |= {"steps": 2, "height": 16, "width": 16, "batch": 2, "draws": 200, "margins": {"rmse": 0.05}}
    return Study(**{**settings, **changes})


def results(folder: Path) -> dict[str, bytes]:
    """Every result file of a run by its path, without scratch files and logs of how it came about."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in paths if not path.name.startswith(".")
    }
