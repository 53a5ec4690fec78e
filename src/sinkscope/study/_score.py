"""The second stage: scores of finished images. Any metric may be added at any later time.

Scores are kept per metric, arm and chunk of units under a name made from what they depend on: the metric's
identity (checkpoint hash, preprocessing, versions), the images, the reference images and the prompts. A stage
that was cut off continues; a changed image or checkpoint is scored again; nothing is ever taken for something
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sinkscope import metrics
from sinkscope.errors import MissingWeightsError, StoreError, UsageError, unknown
from sinkscope.prompts import PromptRecord
from sinkscope.shapes import EMBEDDED
from sinkscope.study import _files
from sinkscope.study._plan import Plan, Unit
from sinkscope.study._progress import Meter
from sinkscope.study._record import prompt_records
from sinkscope.study._store import Store
from sinkscope.study._study import BASELINE, Study

CHUNK = 64
COLUMNS = ("unit", "prompt_id", "prompt", "task", "seed", "arm", "metric", "value", "status")


Options = Mapping[str, Mapping[str, Any]]


def check_metrics(
    names: Sequence[str], prompts: Sequence[PromptRecord], *, options: Options, model: str
) -> None:
    """Refuse metrics that do not exist or cannot be computed here, before any time is spent.

    Args:
        names: Metrics.
        prompts: The prompts of the study.
        options: Metric -> its options; a metric with options is built, so that its weights are looked for.
        model: The model of the study: the embedded CLIP knows nothing but the embedded model's shapes.

    Raises:
        UsageError: There is no such metric, or the prompts say nothing it could judge by.
        MissingWeightsError: It cannot be computed here; the message says what is missing and how to get it.
    """
    known = {info.name: info for info in metrics.available()}
    for name in names:
        if name not in known:
            raise unknown("metric", name, known)
        if name == "clip_t" and model not in EMBEDDED and not options.get(name, {}).get("checkpoint"):
            raise UsageError(
                "Metric 'clip_t' by default uses the embedded CLIP, which knows coloured shapes only, and "
                f"the model is {model!r}. Name a checkpoint: a folder or a hub id, for example "
                'metric_options={"clip_t": {"checkpoint": "openai/clip-vit-base-patch32"}}, on the command '
                "line --option clip_t.checkpoint=PATH."
            )
        if name in options:
            metrics.get(name, **options[name]).identity()
            continue
        info = known[name]
        if info.status != "ready":
            raise MissingWeightsError(
                f"Metric {name!r} cannot be computed here: {info.reason} {info.how}".strip()
            )
    if "scene" in names:
        bare = [prompt.text for prompt in prompts if not prompt.metadata.get("include")]
        if bare:
            raise UsageError(
                f"Metric 'scene' judges by the metadata of a prompt, and {len(bare)} of {len(prompts)} "
                "prompts have "
                f"none, the first {bare[0]!r}. Use other metrics, or prompts with an 'include' list."
            )


def check_sizes(study: Study) -> None:
    """Refuse distances between images of different sizes.

    Raises:
        UsageError: Naming the metric, the arm and both sizes.
    """
    for arm in study.arm_names:
        ours, theirs = study.sampling(arm), study.sampling(study.base(arm))
        if all(ours[name] == theirs[name] for name in ("height", "width")):
            continue
        for name in study.metrics:
            if "reference" in metrics.get(name, **study.metric_options.get(name, {})).needs:
                sizes = [f"{s['height']} x {s['width']}" for s in (ours, theirs)]
                raise UsageError(
                    f"Metric {name!r} compares images of one size, but arm {arm!r} is {sizes[0]} (height x "
                    f"width) and {study.base(arm)!r}, which it is compared with, {sizes[1]}. Name an arm of "
                    "the same size in against, or leave the metric out."
                )


def score(
    store: Store,
    plan: Plan,
    names: Sequence[str],
    *,
    options: Options,
    model: str,
    show: bool = True,
    bases: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Score every image with every metric and write `scores.parquet`.

    Args:
        store: The run folder.
        plan: All units and arms.
        names: Metrics.
        options: Metric -> its options.
        model: The model of the study.
        show: Show progress.
        bases: Arm -> the unedited arm whose images distances are measured from; the baseline where not named.

    Returns:
        Metric name -> identity, for `study.yaml`.

    Raises:
        StoreError: An image is missing or not the one that was generated.
    """
    check_metrics(names, [unit.prompt for unit in plan.units], options=options, model=model)
    digests = store.image_digests(plan)
    chunks = [plan.units[start : start + CHUNK] for start in range(0, len(plan.units), CHUNK)]
    frames, identities = [], {}
    with Meter("score", plan.images * len(names), show=show) as meter:
        for name in names:
            scorer = _Scorer(store, metrics.get(name, **options.get(name, {})), digests, bases or {})
            identities[name] = dict(scorer.identity)
            for arm in plan.arms:
                for index, units in enumerate(chunks):
                    frames.append(scorer.chunk(arm, index, units))
                    meter.advance(len(units))
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
    store.save_table("scores", table)
    return identities


class _Scorer:
    """One metric over one run folder."""

    def __init__(
        self, store: Store, metric: Any, digests: dict[tuple[str, str], str], bases: Mapping[str, str]
    ) -> None:
        self.store, self.metric, self.digests, self._bases = store, metric, digests, bases
        self.identity = metric.identity()
        self._text = _files.canonical(_jsonable(self.identity))

    def chunk(self, arm: str, index: int, units: Sequence[Unit]) -> pd.DataFrame:
        """Scores of some units in one arm, from the shard where a fitting one exists."""
        path = self._path(arm, index, units)
        if path.is_file():
            try:
                return _files.read_table(path)
            except StoreError:
                path.unlink()  # a damaged shard is only a lost cache entry
        frame = self._table(arm, units, self._rows(arm, units))
        for old in path.parent.glob(f"{arm}-{index:05d}-*.parquet"):
            old.unlink()
        _files.write_table(path, frame)
        return frame

    def _path(self, arm: str, index: int, units: Sequence[Unit]) -> Path:
        arms = [arm, self._base(arm)] if "reference" in self.metric.needs else [arm]
        images = [self.digests[name, unit.id] for name in arms for unit in units]
        prompts = prompt_records([unit.prompt for unit in units])
        text = _files.canonical([self._text, images, _jsonable(prompts)])
        key = _files.digest(text.encode())[:16]
        folder: Path = self.store.folder / "shards" / "scores" / self.metric.name
        return folder / f"{arm}-{index:05d}-{key}.parquet"

    def _rows(self, arm: str, units: Sequence[Unit]) -> pd.DataFrame:
        images = [self._image(arm, unit) for unit in units]
        needed = "reference" in self.metric.needs
        reference = [self._image(self._base(arm), unit) for unit in units] if needed else None
        return metrics.score_rows(self.metric, images, [unit.prompt for unit in units], reference)

    def _base(self, arm: str) -> str:
        return self._bases.get(arm, BASELINE)

    def _image(self, arm: str, unit: Unit) -> Any:
        path = self.store.image_path(arm, unit.id)
        image = _files.read_image(path)
        if not _files.has_digest(path, self.digests[arm, unit.id]):
            raise StoreError(
                f"{path} is not the image that was generated (its SHA-256 differs). Run the same study into "
                "this folder "
                "again: only changed images are generated anew."
            )
        return image

    def _table(self, arm: str, units: Sequence[Unit], rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "unit": [unit.id for unit in units],
                "prompt_id": [unit.prompt.id for unit in units],
                "prompt": [unit.prompt.text for unit in units],
                "task": [unit.prompt.task for unit in units],
                "seed": [unit.seed for unit in units],
                "arm": arm,
                "metric": self.metric.name,
                "value": rows["value"].to_numpy(),
                "status": rows["status"].to_numpy(),
            }
        )


def _jsonable(value: Any) -> Any:
    """Identities may hold tuples, paths or numpy numbers; hashes need plain data."""
    if isinstance(value, dict):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_jsonable(item) for item in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.item() if isinstance(value, np.generic) else str(value)
