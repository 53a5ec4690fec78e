"""Schedulers that pipelines are run with besides their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)


class Kind(NamedTuple):
    """A scheduler and how many steps it makes of three: Heun evaluates all but the last one twice."""

    build: Callable[[Any], Any]
    """From the configuration of the pipeline's own scheduler."""
    steps: int = 3


SCHEDULERS: dict[str, Kind] = {
    "euler": Kind(EulerDiscreteScheduler.from_config),
    "ddim": Kind(DDIMScheduler.from_config),
    "heun": Kind(HeunDiscreteScheduler.from_config, 5),
    "unipc": Kind(UniPCMultistepScheduler.from_config),
    "dpm": Kind(DPMSolverMultistepScheduler.from_config),
    "flow euler": Kind(FlowMatchEulerDiscreteScheduler.from_config),
    "flow heun": Kind(FlowMatchHeunDiscreteScheduler.from_config, 5),
    "flow unipc": Kind(
        lambda config: UniPCMultistepScheduler.from_config(
            config, prediction_type="flow_prediction", use_flow_sigmas=True
        )
    ),
}
DIFFUSION = ("euler", "ddim", "heun", "unipc")
"""For models that predict noise."""
FLOW = ("flow heun", "flow unipc")
"""For models that predict a flow, whose own scheduler is Euler's."""
