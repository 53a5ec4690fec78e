"""What a unit gives: an image, or arrays by name where the model reads instead of painting.

A pipeline whose class has `output_kind = "arrays"` returns `arrays`, one mapping from names to NumPy arrays
per unit, where others return `images`. Everything else of a study is the same: noise, batches, arms, the run
folder, scores and verdicts. Images are kept as PNG, arrays as safetensors; both are lossless, and equal
outputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sinkscope.errors import NonFiniteError, StoreError, UsageError
from sinkscope.study import _files
from sinkscope.study._plan import Unit

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Output: TypeAlias = Image.Image | Arrays
IMAGE, ARRAYS = "image", "arrays"
SUFFIX = {IMAGE: ".png", ARRAYS: ".safetensors"}
"""File name ending of each kind of output."""


def kind_of(pipe: Any) -> str:
    """ "image", or "arrays" for a pipeline that reads.

    Raises:
        UsageError: The pipeline declares something else.
    """
    kind = getattr(type(pipe), "output_kind", IMAGE)
    if kind not in SUFFIX:
        raise UsageError(
            f"{type(pipe).__name__} has output_kind={kind!r}: expected {' or '.join(map(repr, SUFFIX))}."
        )
    return str(kind)


def wants(metric: Any) -> str:
    """Which kind of output a metric scores."""
    return ARRAYS if ARRAYS in metric.needs else IMAGE


def check_metric(metric: Any, kind: str) -> None:
    """Refuse a metric of the other kind.

    Raises:
        UsageError: Naming what it scores and the metrics that would fit.
    """
    if wants(metric) == kind:
        return
    fitting = {IMAGE: "scene, rmse or ssim", ARRAYS: "loss, perplexity, accuracy, top1 or feature_cosine"}
    words = {IMAGE: "images", ARRAYS: "arrays of a model that reads"}
    raise UsageError(
        f"Metric {metric.name!r} scores {words[wants(metric)]}, but the units of this model are "
        f"{words[kind]}. Use metrics such as {fitting[kind]}."
    )


def check_metrics(names: Sequence[str], options: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    """Refuse metrics that score another kind of output than a model gives, before anything is generated.

    Raises:
        UsageError: Naming the metric.
    """
    from sinkscope import metrics

    for name in names:
        check_metric(metrics.get(name, **options.get(name, {})), kind)


def arrays_of(pipe: Any, result: Any, units: Sequence[Unit]) -> list[Arrays]:
    """The arrays of one batch, checked.

    Raises:
        NonFiniteError: A unit's numbers hold NaN or infinity.
        UsageError: The pipeline returned something other than one mapping of arrays per unit.
    """
    found = getattr(result, "arrays", None)
    whole = isinstance(found, Sequence) and len(found) == len(units)
    if found is None or not whole or not all(isinstance(entry, Mapping) and entry for entry in found):
        raise UsageError(
            f"{type(pipe).__name__} returned {type(result).__name__} without one mapping of arrays per unit."
        )
    for unit, entry in zip(units, found, strict=True):
        for name, value in entry.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise NonFiniteError(
                    f"The array {name!r} of unit {unit.id!r} holds NaN or infinity, so nothing of this batch "
                    "was kept. Load the model in float32, or weaken the edit."
                )
    return list(found)


def to_bytes(output: Output) -> bytes:
    """An output as the bytes of its file."""
    if isinstance(output, Image.Image):
        return _files.image_bytes(output)
    from safetensors.numpy import save

    return bytes(save({name: np.ascontiguousarray(output[name]) for name in sorted(output)}))


def read(path: Path) -> Output:
    """Read a unit's output back.

    Raises:
        StoreError: The file is missing or damaged.
    """
    if path.suffix != SUFFIX[ARRAYS]:
        return _files.read_image(path)
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = _files.read_bytes(path)
    try:
        return dict(load(data))
    except (SafetensorError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged ({len(data)} bytes: {error}). Run the same study into this folder again: "
            "only the damaged files are made anew."
        ) from error
