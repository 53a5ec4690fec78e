"""What a metric is, and the checks every metric makes on its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sinkscope.errors import UsageError

from ._image import ImageError

Direction = Literal["higher", "lower", "none"]
Status = Literal["ready", "missing", "broken"]


class Prompt(Protocol):
    """What a metric reads of a prompt record."""

    @property
    def text(self) -> str:
        """The words given to the pipeline."""

    @property
    def task(self) -> str:
        """Task the prompt belongs to."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the image must show, as in GenEval."""


@runtime_checkable
class Metric(Protocol):
    """One number per image. Scoring an image gives the same number in any batch, up to float rounding."""

    @property
    def name(self) -> str:
        """Name in tables."""

    @property
    def direction(self) -> Direction:
        """Whether higher or lower is better; for distances to a reference, "lower" means closer."""

    @property
    def needs(self) -> frozenset[str]:
        """Subset of {"prompt", "reference", "video", "arrays"}. With "video" it scores whole videos and with
        "arrays" arrays, instead of images; one of images scores videos too, frame by frame (`_videos`)."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers: backend, checkpoint, sha256, dtype, preprocess, versions."""

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Score each image: float64 `[n]`.

        Raises:
            ImageError: An image cannot be scored.
            MissingWeightsError: The checkpoint is not on this machine.
            UsageError: Prompts or references are needed and absent, or their number differs from the images'.
        """


@dataclass(frozen=True)
class MetricInfo:
    """Whether a metric can be used here, for `sinkscope doctor`."""

    name: str
    """Name for `metrics.get`."""
    status: Status
    """"ready"; "missing" when weights or packages are; "broken" when a plugin cannot be imported."""
    reason: str = ""
    """What is missing or what went wrong; empty when ready."""
    how: str = ""
    """What to do about it; empty when ready."""


def check_inputs(
    metric: Metric,
    images: Sequence[Image.Image],
    prompts: Sequence[Prompt] | None,
    reference: Sequence[Image.Image] | None,
) -> None:
    """Raise unless everything the metric needs is there, once per image, with references of the same size."""
    for what, given in (("prompt", prompts), ("reference", reference)):
        if what not in metric.needs:
            continue
        if given is None:
            raise UsageError(f"Metric {metric.name!r} needs one {what} per image and got none. Pass them.")
        if len(given) != len(images):
            raise UsageError(
                f"Metric {metric.name!r} got {len(images)} images and {len(given)} {what}s; "
                "expected one each."
            )
    if "reference" in metric.needs:
        for image, other in zip(images, reference or (), strict=True):
            check_same_size(image, other)


def check_same_size(image: Image.Image, reference: Image.Image) -> None:
    """Raise `ImageError` unless both have the same size in pixels."""
    if image.size != reference.size:
        raise ImageError(
            f"Image is {image.width}x{image.height} and its reference {reference.width}x{reference.height} "
            "pixels, expected the same size. Generate both with the same settings."
        )
