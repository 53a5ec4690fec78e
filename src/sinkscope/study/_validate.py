"""What a study may say. One function per rule, one clear message each; none needs the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sinkscope.errors import UsageError, unknown
from sinkscope.study._validate_arms import check_arms, refuse_repeats

if TYPE_CHECKING:
    from sinkscope.prompts import PromptRecord
    from sinkscope.study._study import Study

WITHOUT_EFFECT = ("psnr",)
"""Metrics that give no effect: an image has no finite PSNR to itself, so the baseline has none. They
stay scores, distances to the baseline's image."""
CALIBRATED = "seed"
"""A margin that is not a number: from the seed-to-seed noise measured in the same run."""

INTERVALS = ("auto", "combined", "bca", "percentile", "studentised", "t")
"""Methods of `stats.mean_interval`, here because a study is read without scipy."""
SET_DISTANCES = ("kid", "cmmd", "fd_dinov2", "fd_clip")
"""Keys of `metrics.distances.DISTANCES`, here because naming one needs no torch."""


def split(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics, which score one image at a time, and distances between sets of images."""
    return (
        tuple(name for name in names if name not in SET_DISTANCES),
        tuple(name for name in names if name in SET_DISTANCES),
    )


def check(study: Study) -> None:
    """Refuse a study that cannot be run as it stands.

    Raises:
        UsageError: With the first rule that is broken.
    """
    _numbers(study)
    _text("model", study.model)
    _text("name", study.name)
    _metrics(study)
    _margins(study)
    _noise(study)
    check_arms(study)
    _observed(study)
    _selection(study)
    if study.null_arms not in ("compare", "full"):
        raise unknown("null_arms", study.null_arms, ("compare", "full"))
    if study.interval not in INTERVALS:
        raise unknown("interval", study.interval, INTERVALS)
    if not isinstance(study.split, bool):
        raise UsageError(f"split={study.split!r}: expected true or false.")
    if isinstance(study.prompts, str):
        _text("prompts", study.prompts)
    else:
        check_prompts(study.prompts)


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}={value!r}: expected a whole number from {least}.")


def _number(name: str, value: object, low: float, high: float) -> None:
    bad = isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
    if bad or not low < float(value) < high:  # type: ignore[arg-type]
        raise UsageError(f"{name}={value!r}: expected a number between {low:g} and {high:g}.")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name}={value!r}: expected a text that is not empty.")


def _numbers(study: Study) -> None:
    _whole("steps", study.steps, 1)
    _whole("draws", study.draws, 100)
    _number("level", study.level, 0.5, 1.0)
    for name in ("n_prompts", "height", "width", "frames", "batch"):
        if getattr(study, name) is not None:
            _whole(name, getattr(study, name), 1)
    if study.guidance is not None:
        _number("guidance", study.guidance, -1e-9, 1e4)
    if not study.seeds:
        raise UsageError("seeds is empty: expected at least one whole number, for example seeds=[0].")
    for seed in study.seeds:
        _whole("a seed in seeds", seed, 0)
    refuse_repeats("seeds", study.seeds)


def _metrics(study: Study) -> None:
    from sinkscope import metrics

    known = metrics.names()
    for name in study.metrics:
        if name not in known:
            raise unknown("metric", name, known)
    refuse_repeats("metrics", study.metrics)
    for name in study.distances:
        if name not in SET_DISTANCES:
            raise unknown("distance", name, SET_DISTANCES)
    both = (*study.metrics, *study.distances)
    for name in study.metric_options:
        if name not in both:
            raise unknown("metric in metric_options (expected one of the study's metrics)", name, both)


def _margins(study: Study) -> None:
    for name in (*study.margins, *study.equivalence):
        if name in WITHOUT_EFFECT:
            raise UsageError(
                f"{name!r} can have no margin: an image has no finite value to itself, so that differences "
                "to the baseline mean nothing. It is shown as a distance; declare one for 'rmse' instead."
            )
    for name, margin in study.margins.items():
        if name not in study.metrics:
            raise unknown("metric in margins (expected one of the study's metrics)", name, study.metrics)
        if margin == CALIBRATED:
            _seed_noise(study, name)
        else:
            if isinstance(margin, str):
                raise unknown(f"margin of {name} (or a number)", margin, (CALIBRATED,))
            _number(f"margin of {name}", margin, 0.0, math.inf)
    for name in study.equivalence:
        if name not in study.metrics:
            raise unknown("metric in equivalence (expected one of the study's metrics)", name, study.metrics)
        if name not in study.margins:
            raise UsageError(
                f"A verdict of equivalence is asked for {name!r}, but margins has none for it, and without a "
                "margin nothing is ever called equivalent. Declare the smallest difference that would matter "
                f"before looking at results, for example margins={{{name!r}: 0.01}}, or {CALIBRATED!r}."
            )


def _seed_noise(study: Study, metric: str) -> None:
    reseeded = [name for name in study.arms if study.arm(name).seed_shift and not study.edits(name)]
    if len(study.seeds) < 2 and not reseeded:
        raise UsageError(
            f"The margin of {metric!r} is to be measured between seeds, but seeds={list(study.seeds)} gives "
            "one image per prompt. Use two seeds or more, for example seeds=[0, 1], or add an arm without "
            "edits and with other seeds (for a distance to the baseline's image only that will do): "
            "Arm(seed_shift=1000). Or declare the margin as a number."
        )


def _noise(study: Study) -> None:
    if study.noise_base is None:
        return
    _whole("noise_base", study.noise_base, 0)
    if len(study.seeds) > 1:
        raise UsageError(
            f"noise_base={study.noise_base} gives prompt i the seed {study.noise_base} + i, so "
            f"{len(study.seeds)} seeds would start different prompts from the same noise. Use one seed, or "
            "leave noise_base out."
        )


def _selection(study: Study) -> None:
    """Settings of the draw of prompts mean something only where prompts are drawn."""
    if study.prompt_order not in ("stratified", "file"):
        raise unknown("prompt_order", study.prompt_order, ("stratified", "file"))
    _whole("prompt_seed", study.prompt_seed, 0)
    given = {"prompt_seed": study.prompt_seed != 0, "prompt_tasks": study.prompt_tasks is not None}
    given["prompt_order"] = study.prompt_order != "stratified"
    used = [name for name, value in given.items() if value]
    if used and not isinstance(study.prompts, str):
        raise UsageError(
            f"The study gives its prompts one by one, so {', '.join(used)} would do nothing. Leave it out, "
            "or name a prompt set or file."
        )


def _observed(study: Study) -> None:
    for arm in study.observe.arms if study.observe is not None else ():
        if arm not in study.arm_names:
            raise unknown("arm in observe.arms", arm, study.arm_names)


def check_prompts(prompts: Sequence[PromptRecord]) -> None:
    """Refuse an empty set, empty texts, and ids or texts that occur twice.

    Raises:
        UsageError: Naming the prompts.
    """
    if not prompts:
        raise UsageError("The study has no prompts: expected at least one.")
    ids: dict[str, int] = {}
    texts: dict[str, int] = {}
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt.text, str) or not prompt.text.strip():
            raise UsageError(
                f"Prompt {index} (id {prompt.id!r}) is empty: expected a text. Remove it or fill it in."
            )
        if prompt.task == "all":
            raise UsageError(
                f"Prompt {index} has the task 'all', the name for all tasks together. Rename the task."
            )
        if prompt.id in ids:
            raise UsageError(
                f"Prompts {ids[prompt.id]} and {index} share the id {prompt.id!r}: expected each id once."
            )
        text = " ".join(prompt.text.split())
        if text in texts:
            raise UsageError(
                f"Prompts {texts[text]} and {index} are the same text {text!r}. They would count as two "
                "independent "
                "prompts. Remove one; for several images of one prompt use several seeds."
            )
        ids[prompt.id] = texts[text] = index
