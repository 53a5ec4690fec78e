"""What the shared family test needs to know about a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Guidance = Literal["one batch", "separate calls", "distilled", "none"]


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """One family: how to build a tiny one, how to run it, and what is known about it from its source.

    The shared test is driven by these facts alone. Where a fact is None or empty, the tests that need it do
    not exist for this specimen.
    """

    name: str
    """Short name, used as the id of the tests."""
    title: str
    """Name people know it by, for the table of supported models."""
    group: Literal["image", "video", "audio", "language", "vision"]
    build: Callable[[], Any]
    """Makes the pipeline, or the bare denoiser, with random weights that depend on nothing."""
    run: Callable[..., Tensor]
    """`run(model, **changes)`: a run of two steps (or the forward passes of a bare module) from a fixed seed,
    as one tensor (latents, hidden states or logits). `changes` are arguments of the pipeline's call."""
    needs: tuple[str, ...] = ()
    """Classes of diffusers that its oldest supported versions lack; without them there is no specimen."""
    guidance: Guidance = "none"
    order: tuple[str, str] = ("uncond", "cond")
    """Branches in the order in which they are computed."""
    unguided_text: bool = True
    """Whether the side of guidance without a prompt has text tokens too."""
    segments: tuple[str, ...] = ("image", "text")
    """Names of the key segments that exist somewhere in the model, parts of the prompt (begin mark, words,
    padding) left out. For `sinkscope sites --families` and the README's table."""
    words: str | None = None
    """What the content tokens spell for the prompt "a cat", without blanks; None where no text is known."""
    roles: tuple[tuple[str | None, int], ...] | None = None
    """Roles of the text tokens of "a cat" on the guided side, in order: role and number of tokens."""
    whole: bool = True
    """Whether it is a pipeline; a bare denoiser otherwise."""
    passes: int = 1
    """Forward passes of one `run` of a bare denoiser; a pipeline's follow from its steps."""
    brief: Mapping[str, Any] = field(default_factory=lambda: {"num_inference_steps": 1})
    """Changes that shorten a pipeline's run where one forward pass is enough."""
    two: Mapping[str, Any] | None = field(default_factory=lambda: {"prompt": ["a cat", "an owl"]})
    """Changes that make a batch of two units; None where there are none (bare denoisers)."""
    other: Mapping[str, Any] | None = field(default_factory=lambda: {"prompt": "a dog"})
    """Changes that alter the condition only; None where there are none (bare denoisers)."""
    off: Mapping[str, Any] | None = field(
        default_factory=lambda: {"guidance_scale": 1.0, "num_images_per_prompt": 2}
    )
    """Changes that switch guidance off and make two units; None where that cannot be done."""
    schedulers: tuple[str, ...] = ()
    """Names from `tests.zoo.schedulers` that the pipeline also runs with."""
    probed: bool = True
    """Whether the perturbation probe can speak: the model has inputs of floats with a token axis."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the family table calls a stream that the probe names otherwise."""
    finer: Mapping[str, str] = field(default_factory=dict)
    """Segments of the family table that are part of a stream to the probe, and the name of that stream."""
    learned: tuple[str, ...] = ("register", "padding")
    """Segments of tokens that are learned, which the probe all calls registers."""
    mixed: bool = False
    """Whether some tokens depend on several inputs, so that the probe gives them no name."""
    grid: bool = True
    """Whether the tokens of an image or video segment form full grids, frame by frame, row by row."""
    sites: str | None = None
    """Glob of the sites that sessions are restricted to, where others cannot be seen."""
    refused: str | None = None
    """What a session cannot see of it, for the table; None if it sees everything. With `sites`, the text of
    the error that an unrestricted session raises."""
    exact: bool = True
    """Whether a session changes no bit; not where the model leaves a fused path under any session
    (`nn.MultiheadAttention`)."""
    written_out: bool = False
    """Whether the model writes its softmax out, which the independent count then has to count too."""
    tolerance: float = 2e-6
    """Largest difference between a call's output and explicit softmax attention, relative to the largest
    value or 1."""
