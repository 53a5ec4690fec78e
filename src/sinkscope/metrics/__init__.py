"""Images and prompts in, numbers out: one file per metric, weights loaded when first needed.

A metric never answers 0 for "could not be computed": a bad image is an `ImageError`, absent weights are a
`MissingWeightsError`, and `score_rows` turns bad images into NaN rows that carry their reason. To add a
metric, write a class with the members of `Metric` and name it under the entry point group
`sinkscope.metrics`.
"""

from __future__ import annotations

from ._image import ImageError, open_image, to_rgb
from ._protocol import Metric, MetricInfo, Prompt
from ._registry import available, canonical, get, names
from ._rows import score_rows
from ._weights import release

__all__ = [
    "ImageError",
    "Metric",
    "MetricInfo",
    "Prompt",
    "available",
    "canonical",
    "get",
    "names",
    "open_image",
    "release",
    "score_rows",
    "to_rgb",
]
