"""Images and prompts in, numbers out: one file per metric, weights loaded when first needed.

A metric never answers 0 for "could not be computed": a bad image is an `ImageError`, absent weights are a
`MissingWeightsError`, and `score_rows` turns bad images into NaN rows that carry their reason. To add a
metric, write a class with the members of `Metric` and name it under the entry point group
`sinkscope.metrics`.
"""

from __future__ import annotations

from ._image import ImageError, open_image, to_rgb
from ._protocol import Metric, MetricInfo, Prompt
from ._registry import available, canonical, get, names, parameters
from ._rows import score_rows
from ._videos import score_videos
from ._weights import release, weights_folder

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
    "parameters",
    "release",
    "score_rows",
    "score_videos",
    "to_rgb",
    "weights_folder",
]
