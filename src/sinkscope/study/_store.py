"""The run folder: what is in it, what is finished, and what has to be done again.

```
study.yaml                      settings as resolved, versions, hashes, seeds, prompts
units/<arm>/<unit>.png          images, lossless; .apng where units are videos, .safetensors where arrays
traces.parquet summary.parquet roles.parquet receipts.parquet replacements.parquet takeover.parquet
scores.parquet effects.parquet dose.parquet report.html
shards/<batch>/<arm>/           the same tables per task; done.json: SHA-256 of all the task wrote
shards/encodings/               outputs of the text encoders, while the study generates
shards/scores/                  scores per metric, arm and chunk of units
shards/tables.json              SHA-256 of the merged tables
```

A task (one batch in one arm) is finished when its `done.json` exists and every file it lists has the listed
content, so a process may be killed at any moment: at most the task in flight is lost, and a damaged file is
found and made again. Only one process writes to a folder at a time; a killed one leaves no lock behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import filelock
import pandas as pd
from PIL import Image

from sinkscope.errors import StoreError
from sinkscope.study import _files, _outputs
from sinkscope.study._plan import Plan, Task

RECORD = "study.yaml"
FORMAT = 1
ORIGIN = "step timestep branch unit layer site"
TABLES = {
    "traces": f"{ORIGIN} head rank key segment position token role encoder mass arm",
    "summary": f"{ORIGIN} max_mass mean_top1 entropy top5_mass max_activation keys arm",
    "roles": f"{ORIGIN} segment role encoder keys mass queries arm",
    "receipts": f"{ORIGIN} head keys share_of_keys mass_before mass_after outputs kept edit arm",
    "replacements": f"{ORIGIN} head rank key segment position token role encoder gain arm",
    "takeover": f"{ORIGIN} segment role encoder edited removed gain mass_before mass_after edit arm",
}
"""Tables that tasks write, with the columns a reader may rely on even where there is no row."""
FULL_MASS = "full_mass"
"""A table that stays with its task: one of a whole run would not fit into memory."""


class Store:
    """One run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kind: str | None = None

    @property
    def record_path(self) -> Path:
        """The path of `study.yaml`."""
        return self.folder / RECORD

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing.

        Raises:
            StoreError: Another process is writing to it, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = filelock.FileLock(self.folder / ".lock")
            held.acquire(timeout=0)
        except filelock.Timeout as error:
            raise StoreError(
                f"Another process is writing to {self.folder}. Wait for it or choose another folder."
            ) from error
        except OSError as error:
            raise StoreError(
                f"Cannot write to {self.folder}: {error.strerror or error}. Choose another folder."
            ) from error
        try:
            yield
        finally:
            held.release()
            self._remove_if_unused()

    def _remove_if_unused(self) -> None:
        """Leave no empty folder behind a run that was refused."""
        if [path.name for path in self.folder.iterdir()] == [".lock"]:
            (self.folder / ".lock").unlink()
            self.folder.rmdir()

    def record(self) -> dict[str, Any] | None:
        """The content of `study.yaml`, or None in a new folder.

        Raises:
            StoreError: The folder holds something else, or the file is damaged.
        """
        if self.record_path.is_file():
            data = _files.read_yaml(self.record_path)
            if data.get("format") != FORMAT:
                raise StoreError(
                    f"{self.record_path} is not the record of a run (expected format: {FORMAT}). Choose "
                    "another folder."
                )
            return data
        if self.folder.is_dir():
            others = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))
            if others:
                shown = ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")
                raise StoreError(
                    f"{self.folder} holds {shown} but no {RECORD}. Choose a new or empty folder."
                )
        return None

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write `study.yaml`."""
        _files.write_yaml(self.record_path, record)

    @property
    def kind(self) -> str:
        """What units give, as `study.yaml` says: "image", "video" or "arrays"."""
        if self._kind is None:
            record = self.record()
            if record is None:
                return _outputs.IMAGE
            self._kind = str((record.get("resolved") or {}).get("output", _outputs.IMAGE))
        return self._kind

    def image_path(self, arm: str, unit: str) -> Path:
        """Where the image (the video, the arrays) of a unit in an arm is."""
        return self.folder / "units" / arm / f"{unit}{_outputs.SUFFIX[self.kind]}"

    def shard(self, task: Task) -> Path:
        """The folder of a task's tables and its `done.json`."""
        return self.folder / "shards" / task.batch.name / task.arm

    def save_task(
        self,
        task: Task,
        images: Sequence[Image.Image],
        tables: Mapping[str, pd.DataFrame],
        how: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write everything one task made; the last write marks it finished.

        Args:
            task: The batch and the arm.
            images: One per unit.
            tables: Its tables by name.
            how: What was special: `same_as` (the arm whose images these are), `chunk` (units at once, where
                the batch did not fit into memory).
        """
        done: dict[str, Any] = {"images": {}, "tables": {}, **how}
        for unit, image in zip(task.batch.units, images, strict=True):
            path = self.image_path(task.arm, unit.id)
            done["images"][unit.id] = _files.write_bytes(path, _outputs.to_bytes(image))
        for name, frame in tables.items():
            done["tables"][name] = _files.write_table(self.shard(task) / f"{name}.parquet", frame)
        _files.write_bytes(self.shard(task) / "done.json", json.dumps(done, indent=1).encode())

    def forget(self, task: Task) -> bool:
        """Take back that a task is finished; returns whether it was."""
        was = self.marker(task) is not None
        (self.shard(task) / "done.json").unlink(missing_ok=True)
        return was

    def marker(self, task: Task) -> dict[str, Any] | None:
        """What a task wrote, by its `done.json`; None where there is no readable one."""
        path = self.shard(task) / "done.json"
        if not path.is_file():
            return None
        try:
            data = json.loads(_files.read_bytes(path))
        except ValueError:
            return None
        whole = isinstance(data, dict) and {"images", "tables"} <= set(data)
        return data if whole and set(data["images"]) == {unit.id for unit in task.batch.units} else None

    def is_done(self, task: Task) -> bool:
        """True when the task is finished and every file it wrote is still as written."""
        marker = self.marker(task)
        if marker is None:
            return False
        images = (
            _files.has_digest(self.image_path(task.arm, unit), sha) for unit, sha in marker["images"].items()
        )
        tables = (
            _files.has_digest(self.shard(task) / f"{name}.parquet", sha)
            for name, sha in marker["tables"].items()
        )
        return all(images) and all(tables)

    def image_digests(self, plan: Plan) -> dict[tuple[str, str], str]:
        """SHA-256 of every image by (arm, unit), as generated."""
        found: dict[tuple[str, str], str] = {}
        for task in plan.tasks():
            marker = self.marker(task)
            if marker is None:
                raise StoreError(
                    f"{self.folder} is not finished: arm {task.arm!r} of batch {task.batch.index} is "
                    "missing. "
                    "Run the same study into this folder again to complete it."
                )
            found.update({(task.arm, unit): sha for unit, sha in marker["images"].items()})
        return found

    def merge(self, plan: Plan) -> None:
        """Write the merged tables from the shards, where they are not already there and whole."""
        known = self._digests()
        for name in TABLES:
            path = self.folder / f"{name}.parquet"
            if name in known and _files.has_digest(path, known[name]):
                continue
            self.save_table(name, self._merged(plan, name))

    def _merged(self, plan: Plan, name: str) -> pd.DataFrame:
        frames = []
        for task in plan.tasks():
            marker = self.marker(task)
            if marker is not None and name in marker["tables"]:
                frames.append(_files.read_table(self.shard(task) / f"{name}.parquet"))
        filled = [frame for frame in frames if len(frame)]
        if filled:
            return pd.concat(filled, ignore_index=True)
        return pd.DataFrame(columns=TABLES[name].split(), dtype="str")

    def save_table(self, name: str, frame: pd.DataFrame, key: str = "") -> None:
        """Write a merged table and remember its SHA-256 and the `key` of what it was made from."""
        sha = _files.write_table(self.folder / f"{name}.parquet", frame)
        digests = {**self._digests(), name: sha, f"{name}.key": key}
        _files.write_bytes(self.folder / "shards" / "tables.json", json.dumps(digests, indent=1).encode())

    def table_is_current(self, name: str, key: str) -> bool:
        """True when a table is whole and was made from what `key` names."""
        known = self._digests()
        whole = name in known and _files.has_digest(self.folder / f"{name}.parquet", known[name])
        return whole and known.get(f"{name}.key") == key

    def _digests(self) -> dict[str, str]:
        path = self.folder / "shards" / "tables.json"
        if not path.is_file():
            return {}
        try:
            data = json.loads(_files.read_bytes(path))
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    def table(self, name: str) -> pd.DataFrame:
        """Read a merged table.

        Raises:
            StoreError: It is missing or damaged.
        """
        return _files.read_table(self.folder / f"{name}.parquet")
