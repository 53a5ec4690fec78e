"""The one interception point: every softmax attention call of a pipeline's denoisers, in one `with` block.

Guarantees: inside the block each `F.scaled_dot_product_attention` call made by a denoiser in this thread
reaches the handlers once, under the name of the module that made it. A handler that returns `run(call)`
changes no bit of the output. Leaving the block, also by an exception or Ctrl-C, takes off everything that was
put on. Other threads, other people's hooks, classes and processors are never touched. Sessions nest: the
innermost one sees a call first, the outer one sees it as the inner one changed it.

Accepted costs: `torch.compile`d parts run eagerly in the whole process while any session is open, and
`nn.MultiheadAttention` leaves its fused path, so it is close to but not bit-identical with a run without a
session.

Out of scope: attention in text encoders and autoencoders passes through unseen; it is not the denoiser's.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import SessionError
from ._call import AttentionCall, Handler, Run, Site, Token
from ._checkpoint import rerun_in
from ._coverage import SOFTMAX, uncovered
from ._denoiser import clean, denoisers, looks_like_attention, opened, unwrap
from ._eager import adapt, eager_attention
from ._frames import Frame, Frames
from ._issue import SDPA, call_arguments, issue
from ._layout import Layout
from ._multihead import run_multihead
from ._packed import packed_groups, unpack
from ._patch import force_eager, wrap
from ._preflight import preflight
from ._prompts import PromptBook
from ._quiet import is_quiet
from ._reader import Reader, readers_of
from ._sites import list_sites, prefix, resolve_sites
from ._tracker import Evaluation, Tracker

_WATCHED = SDPA | SOFTMAX | {F.multi_head_attention_forward, eager_attention}


class _Mode(TorchFunctionMode):
    # No property may stand on this class: guards of compiled code look it up and die on one.
    def __init__(self, intercept: Callable[..., Any]) -> None:
        super().__init__()
        self.intercept = intercept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Every torch operation of the block comes by here; almost all of them must leave at once.
        if func in _WATCHED:
            return self.intercept(func, args, kwargs or {})
        return func(*args, **kwargs) if kwargs else func(*args)


class Session:
    """Context manager that shows attention calls to handlers.

    Args:
        pipe: Pipeline or bare denoiser module (then a step is a forward call).
        handlers: One handler or several; the first one runs first and its `run` calls the next. None or an
        empty
            sequence looks at nothing but keeps the audit.
        sites: Which calls handlers see: a glob, or sites from `resolve_sites` (matched by module name). None
        for all. strict: Raise when an attention module ran although its softmax could not be seen.
        tokenizer: Gives the tokens of a bare language model their strings.

    Raises:
        UnsupportedAttentionError: on entry or after a forward pass, when softmax attention would be missed.

    Example:
        >>> from sinkscope.models import Session
        >>> with Session(pipe, lambda call, run: run(call)) as session:  # doctest: +SKIP
        ...     pipe("a photo of a red circle")
    """

    def __init__(
        self,
        pipe: Any,
        handlers: Handler | Sequence[Handler] | None = None,
        *,
        sites: str | Iterable[Site] | None = None,
        strict: bool = True,
        tokenizer: Any = None,
    ) -> None:
        pipe, own = opened(pipe)
        self.pipe = pipe
        self.roots = denoisers(pipe)
        self.handlers: tuple[Handler, ...] = (
            () if handlers is None else (handlers,) if callable(handlers) else tuple(handlers)
        )
        self.sites = {site.name: site for site in list_sites(pipe)}
        self.selected = self._select(sites)
        self.strict = strict
        self.calls = 0
        """Calls that reached the handlers so far, recomputed ones not counted."""
        self.mode = _Mode(self._intercept)
        self.local = threading.local()
        self.closed = True
        self.book = PromptBook(pipe)
        self.layout = Layout(pipe, self.roots)
        self.tracker = Tracker(pipe, self.roots)
        self.readers = readers_of(pipe, self.roots, own if tokenizer is None else tokenizer)
        self._known: dict[tuple[str, int, int], Site] = {}
        self._stack = ExitStack()

    def _select(self, sites: str | Iterable[Site] | None) -> Collection[str] | None:
        if sites is None:
            return None
        if isinstance(sites, str):
            sites = resolve_sites(self.pipe, sites=sites)
        return frozenset(site.name for site in sites)

    # ---- opening and closing

    def __enter__(self) -> Session:
        if not self.closed:
            raise SessionError(
                "This session is open already; expected one `with` block at a time. Make a second Session."
            )
        if torch.compiler.is_compiling():
            raise SessionError(
                "A session cannot be opened inside a compiled region. Open it around the compiled call."
            )
        if self.strict:
            preflight(self.roots)
        with ExitStack() as stack:
            self._install(stack)
            self._stack = stack.pop_all()
        self.closed = False
        return self

    def __exit__(self, *error: Any) -> None:
        self.closed = True
        self._stack.close()
        if error == (None, None, None):
            self._settle()  # what a backward pass recomputed came after its forward pass

    def _install(self, stack: ExitStack) -> None:
        stack.callback(force_eager())
        stack.callback(adapt(self.roots.values()))
        self.local.frames = Frames()
        stack.callback(self._forget_thread)
        self.tracker.install(stack)
        self.book.install(stack)
        for reader in self.readers.values():
            reader.install(stack)
        for part, root in self.roots.items():
            self._hook(stack, root, prefix(part, self.roots), part)
        stack.enter_context(self.mode)

    def _forget_thread(self) -> None:
        self.local.frames = None

    def _hook(self, stack: ExitStack, root: nn.Module, start: str, part: str) -> None:
        for name, module in root.named_modules():
            # A compiled part has the name of the module it wraps; hooks on both would count its visits twice.
            if module is root or isinstance(module, torch.jit.ScriptModule) or unwrap(module) is not module:
                continue
            if looks_like_attention(module) or next(module.children(), None) is not None:
                full = start + clean(name)
                pre = functools.partial(self._enter_module, full, looks_like_attention(module))
                stack.callback(module.register_forward_pre_hook(pre).remove)
                stack.callback(
                    module.register_forward_hook(functools.partial(self._leave_module, full)).remove
                )
            if vars(module).get("_gradient_checkpointing_func") is not None:
                stack.callback(
                    wrap(module, "_gradient_checkpointing_func", functools.partial(rerun_in, self))
                )
        if vars(root).get("_gradient_checkpointing_func") is not None:
            stack.callback(wrap(root, "_gradient_checkpointing_func", functools.partial(rerun_in, self)))
        # The root's hooks come last on entry and on exit see the finished forward pass.
        enter = functools.partial(self._enter_root, part)
        stack.callback(root.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(root.register_forward_hook(functools.partial(self._leave_root, part)).remove)

    # ---- attribution

    def _enter_root(self, part: str, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frames = self.local_frames()
        if frames is None:
            return
        # A Ctrl-C caught inside the block leaves frames behind that no hook took off.
        frames.start()
        start = prefix(part, self.roots)
        frames.evaluation = self.tracker.begin(part, root, args, kwargs, self.book.seal())
        if self.handlers:
            self._layout(part).prepare(frames.evaluation, args, kwargs, start)
        frames.push(start.removesuffix("."), looks_like_attention(root), root)

    def _leave_root(self, part: str, root: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        frames = self.local_frames()
        if frames is None or not frames.stack:
            return
        frames.pop(frames.stack[0].name)
        missed, frames.evaluation = frames.missed, None
        self.tracker.end()
        frames.start()
        self._settle()
        if self.strict:
            uncovered([frame for frame in missed if self._covers(frame.name)], self.sites)

    def _settle(self) -> None:
        """Let handlers read the numbers they have put off."""
        for handler in self.handlers:
            settle = getattr(handler, "settle", None)
            if settle is not None:
                settle()

    def _layout(self, part: str) -> Layout | Reader:
        return self.readers.get(part, self.layout)

    def _enter_module(self, name: str, attention: bool, module: nn.Module, args: tuple[Any, ...]) -> None:
        frames = self.local_frames()
        if frames is not None and frames.stack:
            frames.push(name, attention, module)

    def _leave_module(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        frames = self.local_frames()
        if frames is not None and frames.stack:
            frames.pop(name)

    def _covers(self, name: str) -> bool:
        return self.selected is None or name in self.selected

    # ---- calls

    def _intercept(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frames = self.local_frames()
        if frames is None or not frames.stack:
            return func(*args, **kwargs)
        if func in SDPA or func is eager_attention:
            return self._attention(frames, func, args, kwargs)
        if func is F.multi_head_attention_forward:
            return run_multihead(lambda: self.mode, args, kwargs)
        frames.stack[-1].softmax = True
        return func(*args, **kwargs)

    def _attention(self, frames: Frames, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        frame, index = frames.attribute()
        if not self.handlers or not self._covers(frame.name):
            return func(*args, **kwargs)
        if not frames.recompute:
            self.calls += 1
        arguments = call_arguments(args, kwargs)
        if func is eager_attention:
            own = {name: kwargs[name] for name in ("softcap", "sinks", "own")}
            func = functools.partial(func, **own)
        groups = packed_groups(frame.module, arguments)
        if groups > 1:
            arguments = unpack(arguments, groups)
        call = self._describe(self._site(frame, index, arguments["q"]), frames, arguments)
        return issue(func, call, functools.partial(self._chain, 0), groups)

    def _chain(self, position: int, call: AttentionCall, run: Run) -> Tensor:
        if position == len(self.handlers):
            return run(call)
        return self.handlers[position](call, lambda changed: self._chain(position + 1, changed, run))

    def _site(self, frame: Frame, index: int, q: Tensor) -> Site:
        key = (frame.name, frame.visit, index)
        if key not in self._known:
            site = self.sites.get(frame.name) or Site(frame.name, None, "self", 0, ())
            heads = site.heads or (q.shape[1] if q.dim() == 4 else 1)
            self._known[key] = replace(site, visit=frame.visit, index=index, heads=heads)
        return self._known[key]

    def _describe(self, site: Site, frames: Frames, arguments: dict[str, Any]) -> AttentionCall:
        evaluation: Evaluation = frames.evaluation
        call = AttentionCall(
            site,
            **arguments,
            step=evaluation.step,
            step_count=evaluation.step_count,
            timestep=evaluation.timestep,
            sigma=evaluation.sigma,
            generation=evaluation.generation,
            evaluation=evaluation.evaluation,
            recompute=frames.recompute,
        )
        call = call.replace(rows=evaluation.rows_for(call))
        if call.q.shape[0] == 1 < len(evaluation.rows) and site.index < len(evaluation.rows):
            call = call.replace(site=replace(site, per_row=True))
        return self._layout(evaluation.part).describe(call, evaluation)

    def tokens_for(self, call: AttentionCall) -> tuple[tuple[Token, ...], ...]:
        """Identities of the keys of a call, one tuple per row, one `Token` per key in key order."""
        return call.tokens()

    # ---- gradient checkpointing

    def local_frames(self) -> Frames | None:
        """What this session knows about the running thread, None where it does not listen."""
        return None if is_quiet() else getattr(self.local, "frames", None)

    @contextmanager
    def resumed(self, frames: Frames) -> Iterator[None]:
        """Go on from a remembered place, in whichever thread backward runs."""
        before = self.local_frames()
        frames.recompute = True
        self.local.frames = frames
        try:
            with self.mode:
                yield
        finally:
            self.local.frames = before
