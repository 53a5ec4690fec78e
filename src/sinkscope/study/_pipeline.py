"""Calling a pipeline: which arguments it takes, one batch in, finished images (videos, arrays) out."""

from __future__ import annotations

import inspect
import re
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
_SOUND = ("audio_end_in_s", "audio_length_in_s")
"""Arguments that only pipelines of audio take."""
_PICTURES = ("image", "video", "control_video", "pose_video", "controls", "conditioning_frames")
"""Arguments of pipelines of videos that can be shown a picture or a video."""
_SHOWN = re.compile("ToVideo(?!SD|Zero)|2Video|ToWorld|(?<!T)I2V|PIA|Control|Inpaint")
"""In the names of those that have to be shown one."""
_SINGLE = ("AutoencoderKLHunyuanVideo15",)
"""Autoencoders that cannot decode two videos at once (diffusers 0.42: the mask of its attention)."""
_STRIDES = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
"""What pipelines call the frames of a video that one latent frame stands for."""


def check_call(pipe: Any, study: Study) -> None:
    """Refuse a pipeline that cannot run this study's prompts with its settings, or give what it scores.

    Raises:
        UsageError: Naming the setting the pipeline has no argument for, or the metric.
    """
    accepted = _accepted(pipe)
    _check_input(pipe, accepted)
    for name in ("prompt", "generator", "output_type"):
        if name not in accepted:
            raise UsageError(
                f"{type(pipe).__name__} takes no argument {name!r}: expected a text-to-image pipeline. It "
                "takes: "
                f"{', '.join(accepted)}."
            )
    kind = _outputs.kind_of(pipe)
    _outputs.check_metrics(study.metrics, study.metric_options, kind)
    for name in study.distances:
        _outputs.check_distance(name, kind)
    check_frames(pipe, study.frames)
    if one_at_a_time(pipe) and study.batch not in (None, 1):
        raise UsageError(
            f"The study sets batch={study.batch}, but the {type(pipe.vae).__name__} of {type(pipe).__name__} "
            "cannot decode several videos at once. Use batch=1, or leave batch out."
        )
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


def _check_input(pipe: Any, accepted: Sequence[str]) -> None:
    """Refuse a pipeline that makes sounds, or that a prompt is not enough for."""
    name = type(pipe).__name__
    sounds = [argument for argument in _SOUND if argument in accepted]
    if sounds or "Audio" in name:
        takes = f" (it takes {sounds[0]!r})" if sounds else ""
        raise UsageError(
            f"{name}{takes} makes audio, but a study keeps and scores one image, one video "
            f"or one set of arrays per unit; expected {_EXPECTED}. {_ELSE}"
        )
    shown = [argument for argument in _PICTURES if argument in accepted]
    moving = _outputs.kind_of(pipe) == _outputs.VIDEO
    if not moving and not {"video", "control_video", "pose_video"} & set(shown):
        return
    parameters = inspect.signature(type(pipe).__call__).parameters
    required = [argument for argument in shown if parameters[argument].default is inspect.Parameter.empty]
    if required or (shown and (_SHOWN.search(name) or not moving)):
        raise UsageError(
            f"{name} (it takes {(required or shown)[0]!r}) makes a video from a picture or from another "
            f"video, but a study gives prompts only; expected {_EXPECTED}. {_ELSE}"
        )


_EXPECTED = "a text-to-image or text-to-video pipeline or a model that reads"
_ELSE = "Use sinkscope.observe and sinkscope.intervene around your own calls of it."


def check_frames(pipe: Any, frames: int | None, who: str = "The study") -> None:
    """Refuse a number of frames that the pipeline does not make.

    Args:
        pipe: The pipeline.
        frames: The number; None for the pipeline's own.
        who: Whose number it is, for the message.

    Raises:
        UsageError: Saying which number it makes.
    """
    name = type(pipe).__name__
    _check_motion(pipe, name, frames, who)
    if frames is None:
        return
    if _outputs.kind_of(pipe) != _outputs.VIDEO:
        raise UsageError(
            f"{who} sets frames={frames}, but {name} makes no videos: it takes none of "
            f"{', '.join(_outputs.FRAMES)}. Leave frames out."
        )
    stride = _stride(pipe)
    if stride is not None and (frames - 1) % stride:
        low = (frames - 1) // stride * stride + 1
        raise UsageError(
            f"{who} sets frames={frames}, but {name} makes {stride} n + 1 frames, of which it would "
            f"leave out or add some silently. Use frames={low} or frames={low + stride}."
        )


def _check_motion(pipe: Any, name: str, frames: int | None, who: str) -> None:
    """Refuse more frames than motion modules have positions for."""
    most = getattr(getattr(getattr(pipe, "unet", None), "config", None), "motion_max_seq_length", None)
    argument = _outputs.frames_argument(pipe)
    if argument is None or not isinstance(most, int) or getattr(pipe, "free_noise_enabled", False):
        return
    usual = inspect.signature(type(pipe).__call__).parameters[argument].default
    made = usual if frames is None else frames
    if isinstance(made, int) and made > most:
        got = f"sets frames={made}" if frames is not None else f"leaves frames to {name}, which makes {made}"
        raise UsageError(
            f"{who} {got}, but its motion modules have positions for {most} frames. Use "
            f"frames={most} or fewer."
        )


def _stride(pipe: Any) -> int | None:
    """Frames per latent frame where the first frame has one of its own, as the pipeline's usual number of
    frames shows (81 for a stride of 4); None where it follows no such rule."""
    stride = next((getattr(pipe, name) for name in _STRIDES if hasattr(pipe, name)), None)
    argument = _outputs.frames_argument(pipe)
    if not isinstance(stride, int) or stride < 2 or argument is None:
        return None
    usual = inspect.signature(type(pipe).__call__).parameters[argument].default
    if usual is None:
        usual = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "sample_frames", None)
    return stride if isinstance(usual, int) and usual % stride == 1 else None


def one_at_a_time(pipe: Any) -> bool:
    """Whether a pipeline fails with several prompts at once."""
    return type(getattr(pipe, "vae", None)).__name__ in _SINGLE


def _accepted(pipe: Any) -> list[str]:
    return [name for name in inspect.signature(type(pipe).__call__).parameters if name != "self"]


def paint(pipe: Any, study: Study, units: Sequence[Unit], arm: str = BASELINE) -> list[Any]:
    """Generate one batch of units, sampled as an arm says; its scheduler has to be in place (`sampler`).

    Returns:
        One image or video per unit, or one mapping of arrays where the pipeline reads (`_outputs.Output`).

    Raises:
        NonFiniteError: An image, video or array holds NaN or infinity.
        UsageError: The pipeline refused a setting, or returned something other than one output per unit.
    """
    sampling = study.sampling(arm)
    settings = {argument: sampling[name] for name, argument in ARGUMENTS.items()}
    kind, frames = _outputs.kind_of(pipe), _outputs.frames_argument(pipe)
    if kind == _outputs.VIDEO and frames is not None:
        settings[frames] = sampling["frames"]
    with _quiet(pipe):
        result = call(
            pipe,
            prompt=[unit.prompt.text for unit in units],
            generator=[unit.generator(sampling["seed_shift"]) for unit in units],
            output_type="np",
            **{argument: value for argument, value in settings.items() if value is not None},
        )
    if kind == _outputs.ARRAYS:
        return _outputs.arrays_of(pipe, result, units)
    if kind == _outputs.VIDEO:
        return list(_outputs.videos_of(pipe, result, units, sampling["frames"]))
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
        sizes = ("height", "width", *_outputs.FRAMES)
        size = {name: arguments[name] for name in sizes if name in arguments}
        frames = "frames, " if _outputs.frames_argument(pipe) else ""
        raise UsageError(
            f"{type(pipe).__name__} refused its settings: {error} Got {size or 'its own size'}; "
            f"change height, width, {frames}steps or guidance to what the model was made for."
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
