"""Calling a pipeline: which arguments it takes, one batch in, finished images (or arrays) out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from sinkscope.errors import NonFiniteError, SinkscopeError, UsageError
from sinkscope.study import _outputs
from sinkscope.study._plan import Unit
from sinkscope.study._scheduler import build_scheduler
from sinkscope.study._study import BASELINE, Study

ARGUMENTS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "height": "height",
    "width": "width",
}
_MOVING = ("num_frames", "video_length", "audio_end_in_s")
"""Arguments that only pipelines of videos and audio take."""


def check_call(pipe: Any, study: Study) -> None:
    """Refuse a pipeline that cannot run this study's prompts with its settings, or give what it scores.

    Raises:
        UsageError: Naming the setting the pipeline has no argument for, or the metric.
    """
    accepted = _accepted(pipe)
    if moving := [name for name in _MOVING if name in accepted]:
        raise UsageError(
            f"{type(pipe).__name__} (it takes {moving[0]!r}) makes videos or audio, but a study keeps and "
            "scores one image or one set of arrays per unit; expected a text-to-image pipeline or a model "
            "that reads. Use sinkscope.observe and sinkscope.intervene around your own calls of it."
        )
    for name in ("prompt", "generator", "output_type"):
        if name not in accepted:
            raise UsageError(
                f"{type(pipe).__name__} takes no argument {name!r}: expected a text-to-image pipeline. It "
                "takes: "
                f"{', '.join(accepted)}."
            )
    _outputs.check_metrics(study.metrics, study.metric_options, _outputs.kind_of(pipe))
    for arm in study.arm_names:
        for name, argument in ARGUMENTS.items():
            value = study.sampling(arm)[name]
            if value is not None and argument not in accepted:
                raise UsageError(
                    f"The study sets {name}={value!r}, but {type(pipe).__name__} takes no "
                    f"{argument!r}. "
                    f"Leave {name} out."
                )
        scheduler = study.sampling(arm)["scheduler"]
        if scheduler is not None:
            build_scheduler(pipe, scheduler)


def _accepted(pipe: Any) -> list[str]:
    return [name for name in inspect.signature(type(pipe).__call__).parameters if name != "self"]


def paint(pipe: Any, study: Study, units: Sequence[Unit], arm: str = BASELINE) -> list[Any]:
    """Generate one batch of units, sampled as an arm says; its scheduler has to be in place (`sampler`).

    Returns:
        One image per unit, or one mapping of arrays where the pipeline reads (`_outputs.Output`).

    Raises:
        NonFiniteError: An image or array holds NaN or infinity.
        UsageError: The pipeline refused a setting, or returned something other than one output per unit.
    """
    sampling = study.sampling(arm)
    settings = {argument: sampling[name] for name, argument in ARGUMENTS.items()}
    with _quiet(pipe):
        result = call(
            pipe,
            prompt=[unit.prompt.text for unit in units],
            generator=[unit.generator(sampling["seed_shift"]) for unit in units],
            output_type="np",
            **{argument: value for argument, value in settings.items() if value is not None},
        )
    if _outputs.kind_of(pipe) == _outputs.ARRAYS:
        return _outputs.arrays_of(pipe, result, units)
    images = getattr(result, "images", None)
    if images is None or len(images) != len(units):
        raise UsageError(
            f"{type(pipe).__name__} returned {type(result).__name__} without one image per prompt."
        )
    return [_image(np.asarray(image), unit) for image, unit in zip(images, units, strict=True)]


def call(pipe: Any, **arguments: Any) -> Any:
    """Call a pipeline; what it says against its arguments becomes a usage error.

    Raises:
        UsageError: The pipeline refused an argument, for example a size it was not made for.
    """
    try:
        return pipe(**arguments)
    except SinkscopeError:
        raise
    except ValueError as error:
        size = {name: arguments[name] for name in ("height", "width") if name in arguments}
        raise UsageError(
            f"{type(pipe).__name__} refused its settings: {error} Got {size or 'its own size'}; "
            "change height, width, steps or guidance to what the model was made for."
        ) from error


def _image(pixels: np.ndarray[Any, Any], unit: Unit) -> Image.Image:
    if not np.isfinite(pixels).all():
        raise NonFiniteError(
            f"The image of unit {unit.id!r} holds NaN or infinity, so nothing of this batch was kept. Half "
            "precision may "
            "overflow here: load the pipeline in float32 or bfloat16, or weaken the edit."
        )
    return Image.fromarray((pixels * 255).round().astype(np.uint8).squeeze())


@contextmanager
def _quiet(pipe: Any) -> Iterator[None]:
    """Switch the pipeline's own progress bar off for a while; the study shows one for the whole run."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(**{**(before or {}), "disable": True})
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = before
