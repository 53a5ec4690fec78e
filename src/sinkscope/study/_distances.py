"""Distances between the images of an arm and of its reference, as `distances.parquet`.

Features of an arm are computed once per call and backbone. A row is computed again when an image, the
backbone or a setting changed, and kept otherwise. A distance whose weights are not here costs its own rows
only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sinkscope import stats
from sinkscope.errors import SinkscopeError, StoreError, UsageError
from sinkscope.metrics.distances import DISTANCES, features
from sinkscope.shapes import EMBEDDED
from sinkscope.study import _files, _outputs
from sinkscope.study._analyse import BOOTSTRAP_SEED, contrasts
from sinkscope.study._plan import Plan
from sinkscope.study._progress import Meter
from sinkscope.study._scorer import jsonable
from sinkscope.study._store import Store
from sinkscope.study._study import Study

TABLE = "distances"
CHUNK = 64
FEW = 10
"""Images per dimension below which a Frechet distance is called biased."""
COLUMNS = (
    "metric arm reference n_prompts n_units dimension value ci_low ci_high level p_swap status note "
    "checkpoint sha256 key"
).split()
NO_ARMS = "The study compares no arms, so there is no distance to compute. Add an arm to it."
Floats = NDArray[np.float64]


def check(study: Study) -> None:
    """Refuse distances of a study that cannot be computed here, before any time is spent.

    Raises:
        UsageError: The study compares no arms, makes videos, or an option is wrong.
        MissingWeightsError: The backbone is not here.
    """
    if study.distances and not contrasts(study):
        raise UsageError(NO_ARMS)
    for name in study.distances:
        if study.frames is not None:
            _outputs.check_distance(name, _outputs.VIDEO)
        _backbone(study, name, study.metric_options.get(name, {})).identity()


def _backbone(study: Study, name: str, options: Mapping[str, Any]) -> Any:
    return features(name, shapes=study.model in EMBEDDED, **options)


def measure(
    store: Store,
    study: Study,
    plan: Plan,
    names: Sequence[str],
    *,
    options: Mapping[str, Mapping[str, Any]],
    device: str,
    show: bool = True,
) -> dict[str, SinkscopeError]:
    """Write `distances.parquet` for all contrasts of a study, and return what could not be computed.

    Args:
        store: The run folder.
        study: Its study.
        plan: Its units and arms.
        names: Distances to compute; rows of others are kept.
        options: Distance -> its options.
        device: Where features are computed, unless an option says otherwise.
        show: Show progress.

    Raises:
        StoreError: The run is not finished, or an image is not the one that was generated.
    """
    digests = store.image_digests(plan)
    pairs = [(entry.arm, entry.reference) for entry in contrasts(study)]
    if not pairs:
        raise UsageError(NO_ARMS)
    old = _old(store)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, SinkscopeError] = {}
    with Meter("distances", len(names) * len(pairs), show=show) as meter:
        for name in names:
            try:
                rows += _rows(store, study, plan, name, pairs, digests, old, options.get(name, {}), device)
            except StoreError:
                raise
            except SinkscopeError as error:
                left_out[name] = error
            meter.advance(len(pairs))
    done = {row["metric"] for row in rows}
    table = pd.concat(
        [old[~old["metric"].isin(done)], pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True
    )
    store.save_table(
        TABLE, table.astype({name: "float64" for name in ("value", "ci_low", "ci_high", "p_swap")})
    )
    return left_out


def _rows(
    store: Store,
    study: Study,
    plan: Plan,
    name: str,
    pairs: Sequence[tuple[str, str]],
    digests: Mapping[tuple[str, str], str],
    old: pd.DataFrame,
    options: Mapping[str, Any],
    device: str,
) -> list[dict[str, Any]]:
    """Rows of one distance."""
    _outputs.check_distance(name, store.kind)
    backbone = _backbone(study, name, {"device": device, **options})
    identity = backbone.identity()
    mine = old[old["metric"] == name]
    known: dict[str, dict[str, Any]] = {
        str(row["key"]): {str(column): value for column, value in row.items()}
        for row in mine.to_dict("records")
    }
    cache: dict[str, Floats] = {}

    def of(arm: str) -> Floats:
        if arm not in cache:
            cache[arm] = _features_of(store, plan, arm, digests, backbone)
        return cache[arm]

    found = []
    for arm, reference in pairs:
        images = [[digests[side, unit.id] for unit in plan.units] for side in (arm, reference)]
        settings = [name, jsonable(identity), images, study.level, study.draws, BOOTSTRAP_SEED]
        key = _files.digest(_files.canonical(settings).encode())
        if key not in known:
            prompts = [unit.prompt.id for unit in plan.units]
            known[key] = {
                **_row(name, of(arm), of(reference), prompts, study),
                "checkpoint": identity["checkpoint"],
                "sha256": identity["sha256"],
                "key": key,
            }
        found.append({**known[key], "metric": name, "arm": arm, "reference": reference, "level": study.level})
    return found


def _row(name: str, ours: Floats, theirs: Floats, prompts: Sequence[str], study: Study) -> dict[str, Any]:
    """One distance; without a value, and with the reason, where the images cannot carry it."""
    n, dimension = ours.shape
    row = {"n_prompts": len(set(prompts)), "n_units": n, "dimension": dimension, "note": ""}
    kind = DISTANCES[name].kind
    try:
        if kind == "frechet":
            stats.check_rank(n, dimension, what=name)
            result = stats.paired_frechet(ours, theirs, prompts, level=study.level, seed=BOOTSTRAP_SEED)
            if n < FEW * dimension:
                row["note"] = (
                    f"biased upwards: {n} images for {dimension} features; compare with a distance between "
                    "two seeds of the same arm, not with other numbers of images"
                )
        else:
            kernel = stats.polynomial if kind == "polynomial" else stats.gaussian
            result = stats.paired_mmd(
                ours,
                theirs,
                prompts,
                kernel=kernel,
                level=study.level,
                draws=study.draws,
                seed=BOOTSTRAP_SEED,
            )
    except UsageError as error:
        nothing = dict.fromkeys(("value", "ci_low", "ci_high", "p_swap"), np.nan)
        return {**row, **nothing, "status": str(error)}
    numbers = {"value": result.value, "ci_low": result.low, "ci_high": result.high, "p_swap": result.p}
    return {**row, **numbers, "status": "ok"}


def _features_of(
    store: Store, plan: Plan, arm: str, digests: Mapping[tuple[str, str], str], backbone: Any
) -> Floats:
    parts = []
    for start in range(0, len(plan.units), CHUNK):
        images = []
        for unit in plan.units[start : start + CHUNK]:
            path = store.image_path(arm, unit.id)
            if not _files.has_digest(path, digests[arm, unit.id]):
                raise StoreError(
                    f"{path} is not the image that was generated (its SHA-256 differs). Run the same study "
                    "into this folder again: only changed images are generated anew."
                )
            images.append(_files.read_image(path))
        parts.append(backbone(images))
    return np.concatenate(parts)


def _old(store: Store) -> pd.DataFrame:
    """The table as it is; empty where there is none."""
    try:
        table = store.table(TABLE)
    except StoreError:
        table = pd.DataFrame()
    return table if list(table.columns) == COLUMNS else pd.DataFrame(columns=COLUMNS)
