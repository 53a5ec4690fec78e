"""Metrics by name: the built-in ones and those other packages add under the entry point group
`sinkscope.metrics`.

An entry point names a class (or a function) that is called with the user's options and returns a `Metric`. A
class may have `check() -> MetricInfo` to say what it is missing; without it, a plugin that imports counts as
ready.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from typing import Any

from sinkscope.errors import MissingDependencyError, UsageError, unknown

from ._protocol import Metric, MetricInfo

GROUP = "sinkscope.metrics"

_BUILT_IN = {
    "scene": ("_scene", "Scene"),
    "clip_t": ("_clip", "ClipT"),
    "lpips": ("_lpips", "Lpips"),
    "ssim": ("_ssim", "Ssim"),
    "ms_ssim": ("_ssim", "MsSsim"),
    "rmse": ("_rmse", "Rmse"),
    "psnr": ("_psnr", "Psnr"),
    "pickscore": ("_pickscore", "PickScore"),
    "hps": ("_hps", "Hps"),
    "imagereward": ("_imagereward", "ImageReward"),
    "geneval": ("geneval", "Geneval"),
    "dino": ("_dino", "Dino"),
    "vqascore": ("_vqascore", "VqaScore"),
    "frame_change": ("_motion", "FrameChange"),
    "frame_change_rmse": ("_motion", "FrameChangeRmse"),
    "loss": ("_arrays", "Loss"),
    "perplexity": ("_arrays", "Perplexity"),
    "accuracy": ("_arrays", "Accuracy"),
    "top1": ("_arrays", "Top1"),
    "feature_cosine": ("_arrays", "FeatureCosine"),
}

ALIASES = {
    "clip": "clip_t",
    "clip-t": "clip_t",
    "clipscore": "clip_t",
    "siglip": "clip_t",
    "hpsv2": "hps",
    "hps_v2.1": "hps",
    "hpsv2.1": "hps",
    "image_reward": "imagereward",
    "pick_score": "pickscore",
    "msssim": "ms_ssim",
}
"""Other names people use, for `canonical`."""


def names() -> list[str]:
    """Names of every metric, the built-in ones first."""
    return [*_BUILT_IN, *sorted(_plugins())]


def canonical(name: str) -> str:
    """Return the name of the metric that `name` stands for; a name that is no alias is returned as it is.

    An alias never hides a metric of that very name, built in or added.
    """
    return name if name in _BUILT_IN or name in _plugins() else ALIASES.get(name.lower(), name)


def get(name: str, **options: Any) -> Metric:
    """Build a metric. Weights are loaded when it first scores.

    Args:
        name: One of `names()`, or an alias such as "clip".
        **options: For that metric, for example `get("clip_t", checkpoint="openai/clip-vit-base-patch32")`.

    Raises:
        UsageError: An unknown name or option.
        MissingDependencyError: A plugin's package cannot be imported.
    """
    name = canonical(name)
    factory = _factory(name)
    try:
        expected = signature(factory)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"Metric {name!r} is added as {factory!r}, expected a class that makes one."
        ) from error
    try:
        expected.bind(**options)
    except TypeError as error:
        known = ", ".join(expected.parameters) or "none"
        raise UsageError(f"Metric {name!r}: {error}. Its options: {known}.") from error
    metric = factory(**options)
    if not isinstance(metric, Metric):
        raise UsageError(
            f"Metric {name!r} is a {type(metric).__name__}, expected the members of "
            "metrics.Metric: name, direction, needs, identity and score."
        )
    return metric


def parameters(name: str) -> frozenset[str]:
    """Names of a metric's options; none where it cannot be imported or says nothing of them."""
    try:
        return frozenset(signature(_factory(name)).parameters)
    except (MissingDependencyError, TypeError, ValueError):
        return frozenset()


def available() -> list[MetricInfo]:
    """Say for every metric, with its default options, whether it can be used on this machine."""
    return [_info(name) for name in names()]


def _info(name: str) -> MetricInfo:
    try:
        factory = _factory(name)
    except MissingDependencyError as error:
        return MetricInfo(
            name, "broken", reason=str(error), how="Repair or uninstall the package that adds it."
        )
    check = getattr(factory, "check", None)
    if not callable(check):
        return MetricInfo(name, "ready")
    info: MetricInfo = check()
    return info


def _factory(name: str) -> Callable[..., Any]:
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        built_in: Callable[..., Any] = getattr(import_module(f"{__package__}.{module}"), attribute)
        return built_in
    plugins = _plugins()
    if name not in plugins:
        raise unknown("metric", name, [*_BUILT_IN, *sorted(plugins)])
    try:
        plugin: Callable[..., Any] = plugins[name].load()
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            f"Metric {name!r} ({plugins[name].value}) cannot be imported: {error}."
        ) from error
    return plugin


def _plugins() -> dict[str, EntryPoint]:
    """Entry points by name. A built-in name is never replaced: it must mean the same thing on every
    machine.
    """
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _BUILT_IN}
