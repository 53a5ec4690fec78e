"""Another sampler for one arm, and the proof that it solves the equation the model was trained for.

diffusers builds almost any scheduler from the configuration of any other. Fed with the velocities of a
flow-matching model, a scheduler that expects noise predictions then runs without complaint and paints
something else (`EulerDiscreteScheduler` from SD3's configuration misses the target by more than 20 standard
deviations). So a flow scheduler has to pass a test with a known answer before it is used: given the exact
velocity of a straight path, it must arrive at the path's end, and on the same path each time.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sinkscope.errors import UsageError, unknown

MISS = 0.01
"""How far from the target, in standard deviations of the noise, a flow scheduler may end."""
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
FLOW_OPTION = ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler")
_STEPS = 8


@contextmanager
def sampler(pipe: Any, name: str | None) -> Iterator[None]:
    """Let a pipeline sample with another scheduler for a while; None leaves its own in place."""
    if name is None:
        yield
        return
    own = pipe.scheduler
    pipe.scheduler = build_scheduler(pipe, name)
    try:
        yield
    finally:
        pipe.scheduler = own


def build_scheduler(pipe: Any, name: str) -> Any:
    """A scheduler by class name, from the configuration of the pipeline's own.

    Raises:
        UsageError: There is no such scheduler, or it is not a solver of what this model predicts.
    """
    import diffusers

    own = getattr(pipe, "scheduler", None)
    if own is None:
        raise UsageError(f"{type(pipe).__name__} has no scheduler, so an arm cannot set scheduler={name!r}.")
    flow = predicts_flow(own)
    known = [*FLOW, *FLOW_OPTION] if flow else sorted(kind.__name__ for kind in own.compatibles)
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and hasattr(kind, "set_timesteps") and hasattr(kind, "from_config")):
        raise unknown("scheduler", name, known)
    return _flow(kind, own, known) if flow else _same_prediction(kind, own, known)


def predicts_flow(scheduler: Any) -> bool:
    """Whether the model behind a scheduler predicts the velocity of a flow."""
    config = scheduler.config
    named = type(scheduler).__name__.startswith("FlowMatch")
    return named or bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _flow(kind: Any, own: Any, known: list[str]) -> Any:
    parameters = inspect.signature(kind.__init__).parameters
    shift = own.config.get("shift", own.config.get("flow_shift", 1.0))
    options: dict[str, Any] = {}
    if "use_flow_sigmas" in parameters and "prediction_type" in parameters:
        options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    if "shift" in parameters:
        options["shift"] = shift
    made = kind.from_config(own.config, **options)
    miss, steady = _oracle(kind.from_config(own.config, **options))
    name = kind.__name__
    if not miss <= MISS:
        raise UsageError(
            f"Scheduler {name!r} does not solve the flow this model was trained for: with the exact velocity "
            f"of a straight path it ends {miss:.2g} standard deviations from the target (allowed {MISS}). "
            f"Expected one of: {', '.join(known)}."
        )
    if not steady:
        raise UsageError(
            f"Scheduler {name!r} draws noise of its own that no seed of the study fixes, so arms would "
            f"differ by more than their edits. Expected one of: {', '.join(known)}."
        )
    return made


def _same_prediction(kind: Any, own: Any, known: list[str]) -> Any:
    name, predicted = kind.__name__, own.config.get("prediction_type", "epsilon")
    made = kind.from_config(own.config) if name in known else None
    if made is None or made.config.get("prediction_type", "epsilon") != predicted:
        raise UsageError(
            f"Scheduler {name!r} is not a solver of what this model predicts ({predicted!r}, as "
            f"{type(own).__name__} says). Expected one of: {', '.join(known)}."
        )
    return made


def _oracle(scheduler: Any) -> tuple[float, bool]:
    """Distance from the end of a straight path after sampling with its exact velocity, and whether a second
    run takes the same path.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        paths = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            paths.append(_sample(scheduler))
    target = paths[0][0]
    return float((paths[0][-1] - target).abs().max()), all(map(torch.equal, *paths))


def _sample(scheduler: Any) -> list[Any]:
    """The target, then every point of the way there from noise, called as pipelines of flow models do."""
    import torch

    generator = torch.Generator().manual_seed(0)
    target, x = torch.randn(2, 1, 1, 4, 4, generator=generator)
    given = inspect.signature(scheduler.set_timesteps).parameters
    moving = bool(scheduler.config.get("use_dynamic_shifting"))
    scheduler.set_timesteps(_STEPS, **({"mu": 1.0} if moving and "mu" in given else {}))
    scale = scheduler.config.get("num_train_timesteps", 1000)
    path = [target]
    for t in scheduler.timesteps:
        velocity = (x - target) / max(float(t) / scale, 1e-6)
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
        path.append(x)
    return path
