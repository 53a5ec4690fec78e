"""When a call happens: generation, step, timestep, and which side of guidance each batch row is.

Steps are counted by completed `scheduler.step` calls, because timesteps repeat (Heun) and skip-layer or
two-call guidance runs the denoiser several times per step. With a bare module a step is a forward call,
counted from the start of each `generate` of a language model. Sides of guidance come, in this order, from
what the pipeline announces (`cache_context`), from which rows of the denoiser's input equal which output of
`encode_prompt`, and from the order the family is known to use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ._call import AttentionCall, Branch, RowInfo
from ._denoiser import UNGUIDED, forward_inputs
from ._patch import wrap
from ._prompts import Prompts
from .families import family_of

_TIMESTEPS = ("timestep", "timesteps", "t", "time")
_SIDES: dict[str | None, Branch] = {
    "cond": "cond",
    "uncond": "uncond",
    "pred_cond": "cond",
    "pred_uncond": "uncond",
}
"""What pipelines and guiders announce. Other predictions of a guider are not just one of the sides."""
_LATENTS = ("hidden_states", "sample", "x", "latents", "input_ids", "inputs_embeds", "pixel_values")


@dataclass
class Evaluation:
    """One forward pass of a denoiser."""

    part: str
    """Component name of the denoiser, "" for a bare module."""
    inputs: dict[str, Any]
    """Arguments by parameter name."""
    step: int
    step_count: int | None
    timestep: float | None
    sigma: float | None
    generation: int
    evaluation: int
    rows: tuple[RowInfo, ...]
    """Rows of the denoiser's batch; calls may fold frames or windows into theirs."""
    prompts: Prompts | None
    """What the text encoders were given for this generation."""
    config: Any = None
    """Configuration of the denoiser."""
    cache: dict[Any, Any] = field(default_factory=dict)
    """Segments already worked out, by site and shape."""

    def rows_for(self, call: AttentionCall) -> tuple[RowInfo, ...]:
        """Rows of a call: the batch's own, one per call index, or folded (batch first)."""
        count, own = call.q.shape[0], self.rows
        if count == len(own):
            return own
        if count == 1 and call.site.index < len(own):
            return (RowInfo(0, own[call.site.index].branch, own[call.site.index].unit),)
        if own and count % len(own) == 0:
            fold = count // len(own)
            return tuple(RowInfo(row, own[row // fold].branch, own[row // fold].unit) for row in range(count))
        return tuple(RowInfo(row, "none", row) for row in range(count))


class Tracker:
    """Follows one pipeline or bare module through its steps."""

    def __init__(self, pipe: Any, roots: dict[str, nn.Module]) -> None:
        self.pipe, self.roots = pipe, roots
        self.bare = isinstance(pipe, nn.Module)
        self.step = self.generation = self.evaluation = 0
        self.announced: str | None = None
        self._sides: list[dict[str, Any]] = []
        """What a guider prepared last, one side of guidance each."""
        self.scheduler: Any = None
        self._thread = 0
        self._reached: int | None = None
        self._stepped = False
        self._last: Any = None
        self._first_step = 0
        self._window: tuple[int, int, int] | None = None
        self._prompts: Prompts | None = None
        self._release: list[Callable[[], None]] = []

    def install(self, stack: ExitStack) -> None:
        """Listen to the scheduler and to announcements of the denoisers until `stack` closes."""
        self._thread = threading.get_ident()
        stack.callback(self._release_all)
        if self.bare:
            for root in self.roots.values():
                if callable(getattr(root, "generate", None)):
                    stack.callback(wrap(root, "generate", self._on_generate))
            return
        self._follow_scheduler()
        guider = getattr(self.pipe, "guider", None)
        if callable(getattr(guider, "prepare_inputs", None)):
            stack.callback(wrap(guider, "prepare_inputs", self._on_guidance))
        for root in self.roots.values():
            if callable(getattr(root, "cache_context", None)):
                stack.callback(wrap(root, "cache_context", self._on_announcement))

    def _here(self) -> bool:
        return threading.get_ident() == self._thread

    def _drop_scheduler(self) -> None:
        while self._release:
            self._release.pop()()

    def _release_all(self) -> None:
        self._drop_scheduler()
        self.scheduler = None

    def _follow_scheduler(self) -> None:
        scheduler = getattr(self.pipe, "scheduler", None)
        if scheduler is self.scheduler:
            return
        self._drop_scheduler()
        if self.scheduler is not None:  # swapped inside the block: its set_timesteps went by unheard
            self._new_generation()
        self.scheduler = scheduler
        for name, subscriber in (("step", self._on_step), ("set_timesteps", self._on_timesteps)):
            if callable(getattr(scheduler, name, None)):
                self._release.append(wrap(scheduler, name, subscriber))

    def _on_announcement(self, call_next: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._here():
            self.announced = str(args[0] if args else kwargs.get("name"))
        return call_next(*args, **kwargs)

    def _on_guidance(self, call_next: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = call_next(*args, **kwargs)
        if self._here():
            self._sides = [dict(vars(batch)) for batch in result]
        return result

    def _on_generate(self, call_next: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._here():
            self._new_generation()
        return call_next(*args, **kwargs)

    def _on_step(self, call_next: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = getattr(self.scheduler, "step_index", None)
        result = call_next(*args, **kwargs)
        if self._here():
            if before is not None and self._reached is not None and before < self._reached:
                self.step -= self._reached - before  # a pipeline that takes back a step (Cosmos)
            self._reached = getattr(self.scheduler, "step_index", None)
            self._stepped = True
            self.step += 1
        return result

    def _on_timesteps(self, call_next: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = call_next(*args, **kwargs)
        if self._here():
            self._new_generation()
        return result

    def _on_last(self, call_next: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a pipeline does when its call is over."""
        if self._here():
            self._prompts = None
        return call_next(*args, **kwargs)

    def _go_on(self, prompts: Prompts | None) -> None:
        """A pipeline that sets its timesteps again for the prompts it has read paints the next window of the
        same video (Helios, FramePack, Wan Animate): its steps run on."""
        if self._window is not None and prompts is not None and prompts is self._prompts:
            self.generation, self.step, self.evaluation = self._window
            self._first_step = self.step
        self._window, self._prompts = None, prompts

    def _new_generation(self) -> None:
        if self.evaluation:
            self._window = (self.generation, self.step, self.evaluation)
        self.generation += self.evaluation > 0
        self.step = self.evaluation = self._first_step = 0
        self._reached = None
        self._stepped, self._last = False, None

    def begin(
        self,
        part: str,
        root: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        prompts: Prompts | None,
    ) -> Evaluation:
        """Describe the forward pass that starts now."""
        if not self.bare:
            self._follow_scheduler()
            self._go_on(prompts)
        try:
            inputs = forward_inputs(root, args, kwargs)
        except TypeError:  # the forward pass itself reports wrong arguments better
            inputs = dict(kwargs)
        by_forward = self.bare or self.scheduler is None
        if not by_forward:
            self._follow_timestep(inputs)
        evaluation = Evaluation(
            part=part,
            inputs=inputs,
            step=self.evaluation if by_forward else self.step,
            step_count=None if by_forward else self._step_count(),
            timestep=_timestep(inputs),
            sigma=None if by_forward else self._sigma(),
            generation=self.generation,
            evaluation=self.evaluation,
            rows=self._rows(part, root, inputs, prompts),
            prompts=prompts,
            config=getattr(root, "config", None),
        )
        self.evaluation += 1
        return evaluation

    def _follow_timestep(self, inputs: dict[str, Any]) -> None:
        """Where the scheduler itself is never stepped, as a pipeline steps copies of it (SkyReels V2, one for
        each frame), another timestep is another step."""
        now = next((inputs[name] for name in _TIMESTEPS if inputs.get(name) is not None), None)
        before, self._last = self._last, now
        if self._stepped or self.evaluation == 0 or before is None or now is before:
            return
        if isinstance(now, Tensor) and isinstance(before, Tensor):
            if now.shape != before.shape:  # skip-layer guidance asks for fewer rows in the same step
                now, before = now.unique(), before.unique()
            self.step += not torch.equal(now, before)
        else:
            self.step += now != before

    def end(self) -> None:
        """The forward pass is over."""
        self.announced = None

    def moment(self) -> tuple[int, int | None]:
        """Number of the sampler step that runs now, and how many there are."""
        return self.step, self._step_count()

    def _begin_index(self) -> int:
        return getattr(self.scheduler, "begin_index", None) or 0

    def _step_count(self) -> int | None:
        timesteps = getattr(self.scheduler, "timesteps", None)
        return None if timesteps is None else self._first_step + len(timesteps) - self._begin_index()

    def _sigma(self) -> float | None:
        sigmas = getattr(self.scheduler, "sigmas", None)
        index = self._begin_index() + self.step - self._first_step
        if not isinstance(sigmas, Tensor) or index >= len(sigmas):
            return None
        return float(sigmas[index])

    # ---- sides of guidance

    def _rows(
        self, part: str, root: nn.Module, inputs: dict[str, Any], prompts: Prompts | None
    ) -> tuple[RowInfo, ...]:
        count = _batch(inputs)
        if UNGUIDED in self.roots:
            return _plain(count, "uncond" if part == UNGUIDED else "cond")
        if self.bare:
            return _plain(count, "none")
        family = family_of(root)
        order = family.rows if family else ("uncond", "cond")
        if prompts is not None and prompts.positive is not None and prompts.negative is None:
            # Some pipelines hand out both sides already concatenated; then the latents give it away.
            guided = count == 2 * prompts.rows or self._guided() or prompts.negated
            both = guided and _repeats(root, inputs)
            return _halves(count, order) if both else _plain(count, "none")
        side = self._prepared(inputs)
        if side is not None:
            return _plain(count, side)
        if self.announced in _SIDES:
            return _plain(count, _SIDES[self.announced])
        if prompts is None or prompts.positive is None:
            return _halves(count, order) if _repeats(root, inputs) else _plain(count, "none")
        told = prompts.sides(inputs, count)
        # Three sides or more (image guidance, perturbed attention) are not just cond and uncond.
        if told is not None and told.count("cond") in (0, count / 2, count):
            return _numbered(told)
        return self._matched(count, inputs, prompts, order)

    def _prepared(self, inputs: dict[str, Any]) -> Branch | None:
        """The side whose inputs a guider of a modular pipeline prepared for this forward pass; None where it
        prepared but one side, or the inputs are of none of them alone."""
        found = set()
        for side in self._sides if len(self._sides) > 1 else ():
            others = [other for other in self._sides if other is not side]
            for name, value in side.items():
                own = isinstance(value, Tensor) and value is inputs.get(name)
                if own and not any(other.get(name) is value for other in others):
                    found.add(side.get("__guidance_identifier__"))
        return _SIDES.get(found.pop()) if len(found) == 1 else None

    def _matched(
        self, count: int, inputs: dict[str, Any], prompts: Prompts, order: tuple[Branch, Branch]
    ) -> tuple[RowInfo, ...]:
        """Rows by comparison with the embeddings of both sides."""
        if count == 2 * prompts.rows:
            first = prompts.side(inputs, slice(0, prompts.rows))
            if first is not None:
                order = ("cond", "uncond") if first == "cond" else ("uncond", "cond")
            return _halves(count, order)
        if count == prompts.rows:
            return _plain(count, prompts.side(inputs, slice(None)) or "cond")
        return tuple(RowInfo(row, "none", row % max(prompts.rows, 1)) for row in range(count))

    def _guided(self) -> bool:
        return bool(getattr(self.pipe, "do_classifier_free_guidance", False))


def _plain(count: int, branch: Branch) -> tuple[RowInfo, ...]:
    return tuple(RowInfo(row, branch, row) for row in range(count))


def _numbered(sides: Sequence[Branch]) -> tuple[RowInfo, ...]:
    """Rows of known sides; the units of each side follow each other."""
    units = {side: iter(range(len(sides))) for side in set(sides)}
    return tuple(RowInfo(row, side, next(units[side])) for row, side in enumerate(sides))


def _halves(count: int, order: tuple[Branch, Branch]) -> tuple[RowInfo, ...]:
    half = count // 2
    return tuple(RowInfo(row, order[row // half], row % half) for row in range(count))


def _latents(inputs: dict[str, Any]) -> Any:
    return next((inputs[name] for name in _LATENTS if inputs.get(name) is not None), None)


def _batch(inputs: dict[str, Any]) -> int:
    latents = _latents(inputs)
    if latents is None:
        latents = next(
            (value for value in inputs.values() if isinstance(value, Tensor) and value.dim() > 1), None
        )
    if isinstance(latents, Tensor):
        return int(latents.shape[0])
    return len(latents) if isinstance(latents, (list, tuple)) else 0


def _repeats(root: nn.Module, inputs: dict[str, Any]) -> bool:
    """Whether the second half of the latents is the first half again, as one-batch guidance makes it."""
    latents = _latents(inputs)
    if not isinstance(latents, Tensor) or latents.shape[0] % 2 or latents.shape[0] == 0:
        return False
    # Token ids are texts of their own: fully masked ones are equal without being sides of guidance.
    if not latents.is_floating_point():
        return False
    family, painted = family_of(root), getattr(getattr(root, "config", None), "out_channels", None)
    if family is not None and family.latents is not None and latents.dim() == 5:
        # Channels behind those that are painted hold a picture to start from, on one side of guidance only.
        channels = 1 + family.latents.index("c")
        latents = latents.narrow(
            channels, 0, min(painted or latents.shape[channels], latents.shape[channels])
        )
    return torch.equal(*latents.chunk(2))


def _timestep(inputs: dict[str, Any]) -> float | None:
    value = next((inputs[name] for name in _TIMESTEPS if inputs.get(name) is not None), None)
    if isinstance(value, Tensor):
        # Where each token has its own (Wan 2.2, LTX), tokens of a given picture are told that they are clean.
        value = value.max() if value.dim() > 1 else value
        return float(value.flatten()[0]) if value.numel() else None
    return float(value) if isinstance(value, (int, float)) else None
