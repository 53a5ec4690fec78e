"""What the shared family test needs to know about a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Guidance = Literal["one batch", "separate calls", "distilled", "none"]


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """One family: how to build a tiny one, how to run it, and what is known about it from its source."""

    name: str
    """Short name, used as the id of the tests."""
    title: str
    """Name people know it by, for the table of supported models."""
    group: Literal["image", "video", "audio", "language", "vision"]
    build: Callable[[], Any]
    """Makes the pipeline, or the bare denoiser, with random weights that depend on nothing."""
    run: Callable[..., Tensor]
    """`run(model, **changes)`: a run of two steps (or one forward pass of a bare module) from a fixed seed,
    as one tensor (latents, hidden states or logits). `changes` are arguments of the pipeline's call."""
    guidance: Guidance = "none"
    order: tuple[str, str] = ("uncond", "cond")
    """Branches in the order in which they are computed."""
    segments: tuple[str, ...] = ("image", "text")
    """Names of the key segments that exist somewhere in the model."""
    words: str | None = None
    """What the content tokens spell for the prompt "a cat", without blanks; None where no text is known."""
    whole: bool = True
    """Whether it is a pipeline; a bare denoiser otherwise."""
    refused: str | None = None
    """What a session cannot see of it, for the table; None if it sees everything."""
