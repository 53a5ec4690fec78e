"""One metric over one run folder: each score is computed once and kept under what it depends on.

A row's key is the SHA-256 of the metric's identity (checkpoint hash, preprocessing, versions), the image, the
reference image and the prompt. Rows lie in one shard per metric, arm and chunk of units; rows of other keys
stay there, so going back to an earlier checkpoint costs nothing. Arms with the very same image share its
score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sinkscope import metrics
from sinkscope.errors import MissingWeightsError, StoreError
from sinkscope.metrics._arrays import score_arrays
from sinkscope.metrics._videos import video_identity
from sinkscope.study import _files, _outputs
from sinkscope.study._plan import Unit
from sinkscope.study._record import prompt_records
from sinkscope.study._store import Store
from sinkscope.study._study import BASELINE

SHARD = ("key", "value", "status", "note")


class Row(NamedTuple):
    """What is kept of one score."""

    value: float
    status: str
    note: str


class Scorer:
    """Scores of one metric.

    Args:
        store: The run folder.
        metric: The metric.
        digests: (arm, unit) -> SHA-256 of the image that was generated.
        bases: Arm -> the arm whose images distances are measured from; the baseline where not named.
        recorded: Identity under which the run was scored before. It is used where the weights are not on this
            machine; then only scores that are already there can be given.

    Raises:
        MissingWeightsError: The weights are not here, and nothing was recorded.
        UsageError: The metric scores another kind of output than the run holds.
    """

    def __init__(
        self,
        store: Store,
        metric: metrics.Metric,
        digests: Mapping[tuple[str, str], str],
        bases: Mapping[str, str],
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        _outputs.check_metric(metric, store.kind)
        self.store, self.metric, self.digests, self._bases = store, metric, digests, bases
        self.absent: MissingWeightsError | None = None
        """Why nothing new can be scored; None where it can."""
        try:
            moving = store.kind == _outputs.VIDEO
            self.identity = dict(video_identity(metric) if moving else metric.identity())
        except MissingWeightsError as error:
            if recorded is None:
                raise
            self.absent, self.identity = error, dict(recorded)
        self.damaged: list[str] = []
        """Image files that are not what was generated, in words; their rows have no score and are not
        kept."""
        self._text = _files.canonical(jsonable(self.identity))
        self._known: dict[str, Row] = {}

    def chunk(self, arm: str, index: int, units: Sequence[Unit]) -> pd.DataFrame:
        """Scores of some units in one arm, computed where they are not there."""
        path = self.store.folder / "shards" / "scores" / self.metric.name / f"{arm}-{index:05d}.parquet"
        shard = _read_shard(path)
        self._known.update(shard)
        keys = [self._key(arm, unit) for unit in units]
        missing: dict[str, Unit] = {}
        for key, unit in zip(keys, units, strict=True):
            if key not in self._known:
                missing.setdefault(key, unit)
        if missing and self.absent is not None:
            raise self.absent
        rows = {**self._known, **self._compute(arm, missing)}
        kept = {key: self._known[key] for key in keys if key in self._known}
        if any(key not in shard for key in kept):
            _write_shard(path, {**{k: row for k, row in shard.items() if k not in kept}, **kept})
        return self._table(arm, units, [rows[key] for key in keys])

    def _compute(self, arm: str, missing: Mapping[str, Unit]) -> dict[str, Row]:
        """Score some units; images that are damaged get a row that says so."""
        if not missing:
            return {}
        # A video is as large as many images, and its frames fill a batch of their own.
        if self.store.kind == _outputs.VIDEO and len(missing) > 1:
            found: dict[str, Row] = {}
            for key, unit in missing.items():
                found |= self._compute(arm, {key: unit})
            return found
        rows, good = {}, {}
        for key, unit in missing.items():
            try:
                good[key] = (self._image(arm, unit), self._reference(arm, unit), unit.prompt)
            except StoreError as error:
                self.damaged.append(str(error))
                rows[key] = Row(np.nan, str(error), "")
        if good:
            outputs, references, prompts = (list(column) for column in zip(*good.values(), strict=True))
            table = self._score(outputs, prompts, references if "reference" in self.metric.needs else None)
            scored = [Row(*row) for row in table[list(SHARD[1:])].itertuples(index=False)]
            self._known.update(zip(good, scored, strict=True))
        return {**rows, **{key: self._known[key] for key in good}}

    def _score(self, outputs: list[Any], prompts: list[Any], reference: list[Any] | None) -> pd.DataFrame:
        if self.store.kind == _outputs.ARRAYS:
            return score_arrays(self.metric, outputs, reference)
        if self.store.kind == _outputs.VIDEO:
            return metrics.score_videos(self.metric, outputs, prompts, reference)
        return metrics.score_rows(self.metric, outputs, prompts, reference)

    def _key(self, arm: str, unit: Unit) -> str:
        reference = self.digests[self._base(arm), unit.id] if "reference" in self.metric.needs else None
        (prompt,) = prompt_records([unit.prompt])
        asked = {name: prompt[name] for name in ("text", "task", "metadata")}
        parts = [
            self._text,
            self.digests[arm, unit.id],
            reference,
            jsonable(asked) if "prompt" in self.metric.needs else None,
        ]
        return _files.digest(_files.canonical(parts).encode())

    def _base(self, arm: str) -> str:
        return self._bases.get(arm, BASELINE)

    def _reference(self, arm: str, unit: Unit) -> Any:
        return self._image(self._base(arm), unit) if "reference" in self.metric.needs else None

    def _image(self, arm: str, unit: Unit) -> Any:
        path = self.store.image_path(arm, unit.id)
        output = _outputs.read(path)
        if not _files.has_digest(path, self.digests[arm, unit.id]):
            raise StoreError(
                f"{path} is not the {self.store.kind} that was generated (its SHA-256 differs). Run the same "
                "study into this folder again: only what changed is generated anew."
            )
        return output

    def _table(self, arm: str, units: Sequence[Unit], rows: Sequence[Row]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "unit": [unit.id for unit in units],
                "prompt_id": [unit.prompt.id for unit in units],
                "prompt": [unit.prompt.text for unit in units],
                "task": [unit.prompt.task for unit in units],
                "seed": [unit.seed for unit in units],
                "arm": arm,
                "metric": self.metric.name,
                "value": np.array([row.value for row in rows], dtype=np.float64),
                "status": [row.status for row in rows],
                "note": [row.note for row in rows],
            }
        )


def _read_shard(path: Path) -> dict[str, Row]:
    """Rows by key; a damaged or foreign shard is only a lost cache entry."""
    if not path.is_file():
        return {}
    try:
        table = _files.read_table(path)
    except StoreError:
        return {}
    if tuple(table.columns) != SHARD:
        return {}
    rows = map(Row, table["value"].astype(float), table["status"], table["note"])
    return dict(zip(table["key"], rows, strict=True))


def _write_shard(path: Path, rows: Mapping[str, Row]) -> None:
    table = pd.DataFrame([(key, *row) for key, row in rows.items()], columns=list(SHARD))
    _files.write_table(path, table)


def jsonable(value: Any) -> Any:
    """Identities may hold tuples, paths or numpy numbers; hashes need plain data."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [jsonable(item) for item in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.item() if isinstance(value, np.generic) else str(value)
