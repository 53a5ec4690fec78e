"""A run folder read once: its tables, its study, and a list of everything that is missing with the reason.

A missing file or an empty table is a gap the page names. A file that is present but damaged is an error,
because a page made from half a file would look complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sinkscope.errors import StoreError
from sinkscope.report import _metrics as metrics

TABLES: dict[str, tuple[str, ...]] = {
    "scores": ("unit", "arm", "metric", "value"),
    "effects": ("metric", "task", "kind", "arm", "reference", "effect", "ci_low", "ci_high", "verdict"),
    "traces": ("step", "segment", "mass"),
    "summary": ("step", "mean_top1", "keys"),
    "roles": ("step", "branch", "segment", "role", "queries", "keys", "mass"),
    "receipts": ("arm", "mass_before", "mass_after"),
    "replacements": ("arm", "segment", "gain"),
    "takeover": ("arm", "segment", "role", "edited", "removed", "gain", "mass_before"),
    "matches": ("arm", "reference", "property", "treated", "control", "ratio", "matched"),
    "dose": ("metric", "task", "series", "slope", "ci_low", "ci_high"),
    "ratios": ("metric", "task", "arm", "reference", "ratio", "ci_low", "ci_high"),
    "boundary": ("metric", "task", "series", "margin", "within", "threshold", "boundary"),
    "double_effects": ("metric", "task", "edit", "control", "effect", "ci_low", "ci_high", "verdict"),
    "distances": ("metric", "arm", "reference", "value", "ci_low", "ci_high", "status", "checkpoint"),
    "leave_one_out": ("metric", "arm", "reference", "left_out", "effect", "verdict", "changes"),
}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""LibYAML where it is built in: ten times as fast, and a record lists every prompt."""
PURPOSE = {
    "scores": "no score of any image",
    "effects": "no effects, intervals or verdicts",
    "traces": "no identities of the sink tokens",
    "summary": "no sink mass over steps and layers",
    "receipts": "no proof of what the edits removed",
}
OPTIONAL = frozenset(TABLES) - frozenset(PURPOSE)
WITH_EFFECTS = ("effects", "dose", "ratios", "boundary", "double_effects", "leave_one_out")


@dataclass(frozen=True)
class Gap:
    """Something the page cannot show, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class RunData:
    """All a report needs from a run folder."""

    folder: Path
    record: dict[str, Any]
    """The whole content of study.yaml; `study` is its part that describes the experiment."""
    tables: dict[str, pd.DataFrame]
    gaps: list[Gap] = field(default_factory=list)

    @property
    def study(self) -> dict[str, Any]:
        """The settings of the study."""
        inner = self.record.get("study")
        return inner if isinstance(inner, dict) else self.record

    def table(self, name: str) -> pd.DataFrame | None:
        """The table, or None when the folder has none (then `gaps` says why)."""
        return self.tables.get(name)


def read(folder: Path | str) -> RunData:
    """Read a run folder.

    Args:
        folder: A folder written by `sinkscope.run`.

    Raises:
        StoreError: The folder is no run folder, or a file in it is damaged or lacks needed columns.
    """
    folder = Path(folder)
    present = [name for name in TABLES if (folder / f"{name}.parquet").is_file()]
    if not present and not (folder / "study.yaml").is_file():
        raise StoreError(
            f"{folder} is not a run folder: it has neither study.yaml nor scores.parquet, effects.parquet or "
            "traces.parquet. Give the folder that `sinkscope run` wrote (its `out`)."
        )
    gaps: list[Gap] = []
    record = _record(folder, gaps)
    tables: dict[str, pd.DataFrame] = {}
    for name, needed in TABLES.items():
        frame = _table(folder / f"{name}.parquet", needed) if name in present else None
        if frame is not None and name in WITH_EFFECTS and "metric" in frame.columns:
            # Runs analysed by an earlier version hold effects that mean nothing, such as those of PSNR.
            frame = frame[[metrics.words(str(name)).effect for name in frame["metric"]]]
        if frame is not None and name == "effects":
            frame = frame.assign(output=(record.get("resolved") or {}).get("output", "image"))
        if frame is not None and len(frame):
            tables[name] = frame
        elif name not in OPTIONAL:
            why = "has no rows" if frame is not None else "is not in the run folder"
            gaps.append(Gap(PURPOSE[name], f"{name}.parquet {why}"))
    return RunData(folder, record, tables, gaps)


def _record(folder: Path, gaps: list[Gap]) -> dict[str, Any]:
    path = folder / "study.yaml"
    if not path.is_file():
        gaps.append(Gap("no provenance", "study.yaml is not in the run folder"))
        return {}
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"{path} is not readable YAML ({reason}). Run the study again to rewrite it."
        ) from error
    if not isinstance(loaded, dict):
        raise StoreError(f"{path} holds a {type(loaded).__name__}, expected a mapping. Run the study again.")
    return loaded


def _table(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from ValueError and OSError
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"{path} is not a readable parquet file ({reason}). Delete it and run the study again: "
            "only this stage is repeated."
        ) from error
    if frame.empty:
        return frame
    lost = [name for name in needed if name not in frame.columns]
    if lost:
        raise StoreError(
            f"{path} lacks the columns {', '.join(lost)}; it has {', '.join(map(str, frame.columns))}. "
            "It was written by another version: run the study again."
        )
    return frame
