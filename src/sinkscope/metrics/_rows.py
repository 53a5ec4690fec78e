"""Scoring a set of images of which some may be damaged, without losing the good ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from sinkscope.errors import UsageError

from ._image import ImageError, open_image, to_rgb
from ._protocol import Metric, Prompt, check_same_size

Source = Image.Image | str | Path
OK = "ok"


def score_rows(
    metric: Metric,
    images: Sequence[Source],
    prompts: Sequence[Prompt] | None = None,
    reference: Sequence[Source] | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Score images or image files; a damaged one becomes a NaN row that says why, the others keep their
    scores.

    Args:
        metric: From `metrics.get`.
        images: Images or paths.
        prompts: One per image where the metric needs them.
        reference: One per image where the metric needs them.
        size: `(width, height)` every image must have; None accepts any.

    Returns:
        Columns `value` (float64, NaN unless scored), `status` ("ok" or the reason) and `note` (what the
        metric says of the prompt, such as that it was cut; mostly empty), in the order of `images`.

    Raises:
        UsageError: Prompts or references are missing as a whole or differ in number.
        MissingWeightsError: The metric's weights are absent; then nothing can be scored.
    """
    for what, given in (("prompt", prompts), ("reference", reference)):
        if what in metric.needs and (given is None or len(given) != len(images)):
            count = "none" if given is None else str(len(given))
            raise UsageError(
                f"Metric {metric.name!r} needs one {what} per image: got {count} for {len(images)} images."
            )
    use_reference = reference if "reference" in metric.needs else None
    value = np.full(len(images), np.nan)
    status: list[str] = [OK] * len(images)
    good: dict[int, tuple[Image.Image, Image.Image | None]] = {}
    for index, source in enumerate(images):
        try:
            good[index] = _load(source, None if use_reference is None else use_reference[index], size)
        except ImageError as error:
            status[index] = str(error)
    for index, result in _score(metric, good, prompts).items():
        if isinstance(result, ImageError):
            status[index] = str(result)
        elif np.isfinite(result):
            value[index] = result
        else:
            status[index] = f"{metric.name} gave {result}, expected a finite number"
    return pd.DataFrame({"value": value, "status": status, "note": _notes(metric, prompts, len(images))})


def _notes(metric: Metric, prompts: Sequence[Prompt] | None, count: int) -> list[str]:
    """What a metric has to say of each prompt; `notes` is not part of the protocol's core."""
    notes = getattr(metric, "notes", None)
    if prompts is None or not callable(notes):
        return [""] * count
    return [str(note) for note in notes(prompts)]


def _load(
    source: Source, reference: Source | None, size: tuple[int, int] | None
) -> tuple[Image.Image, Image.Image | None]:
    image = _open(source)
    if size is not None and image.size != size:
        raise ImageError(
            f"Image is {image.width}x{image.height} pixels, expected {size[0]}x{size[1]}. Generate it again."
        )
    if reference is None:
        return image, None
    try:
        other = _open(reference)
    except ImageError as error:
        raise ImageError(f"reference: {error}") from error
    check_same_size(image, other)
    return image, other


def _open(source: Source) -> Image.Image:
    return to_rgb(source) if isinstance(source, Image.Image) else open_image(source)


def _score(
    metric: Metric, good: dict[int, tuple[Image.Image, Image.Image | None]], prompts: Sequence[Prompt] | None
) -> dict[int, float | ImageError]:
    if not good:
        return {}
    try:
        values = metric.score(**_arguments(metric, good, prompts))
    except ImageError as error:
        if len(good) == 1:
            return dict.fromkeys(good, error)
        # One image the metric itself refuses must not cost the batch: score each on its own.
        return {
            i: r for index, pair in good.items() for i, r in _score(metric, {index: pair}, prompts).items()
        }
    if len(values) != len(good):
        raise UsageError(
            f"Metric {metric.name!r} gave {len(values)} values for {len(good)} images, expected one each."
        )
    return {index: float(value) for index, value in zip(good, values, strict=True)}


def _arguments(
    metric: Metric, good: dict[int, tuple[Image.Image, Image.Image | None]], prompts: Sequence[Prompt] | None
) -> dict[str, Any]:
    references = [other for _, other in good.values() if other is not None]
    return {
        "images": [image for image, _ in good.values()],
        "prompts": None if prompts is None else [prompts[index] for index in good],
        "reference": references if "reference" in metric.needs else None,
    }
