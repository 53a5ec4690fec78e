"""What the text encoders were given and what `encode_prompt` made of it, for one generation."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from ._call import Branch
from ._denoiser import text_encoders
from ._patch import wrap

_TEXTS = re.compile(r"(negative_)?prompt(_\d+)?")
"""Arguments of `encode_prompt` that are the user's own words."""


@dataclass
class Captured:
    """Token ids of one call of a text encoder."""

    ids: Tensor
    """Integers `[prompt, position]` on the CPU."""
    mask: Tensor | None
    """True where the encoder attends, `[prompt, position]`, None where it was given no mask."""
    texts: tuple[tuple[str, ...], ...] = ()
    """For each prompt, what the user may have written there; empty where nobody knows."""


@dataclass
class Prompts:
    """One generation's prompts."""

    ids: dict[str, list[Captured]] = field(default_factory=dict)
    """Encoder name to its calls: first the prompt, then the negative prompt."""
    positive: Any = None
    """Prompt embeddings `[row, position, feature]`, with layers of the encoder before the features in some
    models, or a list of `[position, feature]`."""
    negative: Any = None
    encoders: set[str] = field(default_factory=set)
    """Encoders that have read the prompt."""
    sealed: bool = False
    """Set by the first denoiser call; what is encoded later belongs to the next generation."""
    cache: dict[Any, Any] = field(default_factory=dict)
    """Token identities already worked out."""

    @property
    def rows(self) -> int:
        """Rows of the prompt embeddings: prompts times images per prompt."""
        return 0 if self.positive is None else len(self.positive)

    @property
    def negated(self) -> bool:
        """Whether a negative prompt was encoded as well."""
        return any(len(calls) > 1 for calls in self.ids.values())

    def sides(self, inputs: dict[str, Any], count: int) -> list[Branch] | None:
        """Side of each of `count` rows of the denoiser's input, told by the embedding it equals; None if some
        row equals neither or both."""
        for name, value in inputs.items():
            rows = value.dim() in (3, 4) if isinstance(value, Tensor) else isinstance(value, list)
            if not rows or len(value) != count or self.positive is None or not self._alike(value):
                continue
            told = self._told(name, value)
            if told is not None:
                return told
        return None

    def _alike(self, value: Any) -> bool:
        """Whether the rows of an input have the shape of a side's: latents, new in every step, have not and
        need not be compared."""
        sides = [side for side in (self.positive, self.negative) if isinstance(side, Tensor)]
        return not (isinstance(value, Tensor) and sides) or value.shape[1:] in [
            side.shape[1:] for side in sides
        ]

    def _told(self, name: str, value: Any) -> list[Branch] | None:
        """The sides of one input; pipelines hand over the same tensor in every step, so that it is compared
        once."""
        now = (self.positive, self.negative, value)
        steady = all(part is None or (isinstance(part, Tensor) and not part.is_inference()) for part in now)
        versions = [part._version for part in now if part is not None] if steady else []
        known = self.cache.get(("sides", name)) if steady else None
        if (
            known is not None
            and known[1] == versions
            and all(a is b for a, b in zip(known[0], now, strict=True))
        ):
            found: list[Branch] | None = known[2]
            return found
        hits = [[_among(row, side) for side in (self.positive, self.negative)] for row in value]
        clear = bool(hits) and all(sum(hit) == 1 for hit in hits)
        told: list[Branch] | None = ["cond" if hit[0] else "uncond" for hit in hits] if clear else None
        if steady:
            self.cache["sides", name] = (now, versions, told)
        return told

    def side(self, inputs: dict[str, Any], rows: slice) -> Branch | None:
        """Which side's embeddings some rows of the denoiser's input equal; None if neither or both."""
        for value in inputs.values():
            if not isinstance(value, Tensor) or not isinstance(self.positive, Tensor) or value.dim() < 3:
                continue
            cond, uncond = _equal(value[rows], self.positive), _equal(value[rows], self.negative)
            if cond != uncond:
                return "cond" if cond else "uncond"
        return None

    def captured(self, encoder: str, branch: Branch) -> Captured | None:
        """Ids an encoder was given for one side of guidance."""
        calls, index = self.ids.get(encoder, []), int(branch == "uncond")
        return calls[index] if index < len(calls) else None


def _among(row: Any, side: Any) -> bool:
    """Whether one row's embedding is one of a side's."""
    if not isinstance(row, Tensor) or row.dim() not in (2, 3) or side is None:
        return False
    return any(_equal(row, other) for other in side)


def _equal(value: Tensor, other: Any) -> bool:
    if not isinstance(other, Tensor) or value.shape != other.shape:
        return False
    return torch.equal(value, other.to(value))


class PromptBook:
    """Listens to text encoders and to `encode_prompt` of one pipeline."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.current: Prompts | None = None
        self._thread = 0
        self._texts: list[Any] = []
        self._running: set[str] = set()
        self._unsaid = False
        self._inside = 0

    def install(self, stack: ExitStack) -> None:
        """Listen until `stack` closes. A bare module has nothing to listen to."""
        self._thread = threading.get_ident()
        if isinstance(self.pipe, nn.Module):
            return
        _open_books.append(self)
        stack.callback(_open_books.remove, self)
        for name, encoder in text_encoders(self.pipe).items():
            hook = functools.partial(self._on_encoder, name)
            stack.callback(encoder.register_forward_pre_hook(hook, with_kwargs=True).remove)
            stack.callback(encoder.register_forward_hook(self._behind_encoder, always_call=True).remove)
            embed = _word_embeddings(encoder)
            if embed is not None:
                hook = functools.partial(self._on_words, name)
                stack.callback(embed.register_forward_pre_hook(hook).remove)
        if callable(getattr(self.pipe, "encode_prompt", None)):
            stack.callback(wrap(self.pipe, "encode_prompt", self._on_encode))

    def seal(self) -> Prompts | None:
        """The prompts of the generation that runs now."""
        if self.current is not None:
            self.current.sealed = True
        return self.current

    def _open(self) -> Prompts:
        if self.current is None or self.current.sealed:
            self.current = Prompts()
        return self.current

    def _on_encoder(
        self, name: str, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._inside += threading.get_ident() == self._thread
        found = encoder_input(args, kwargs)
        if found is not None:
            self.note(name, *found)

    def _behind_encoder(self, encoder: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._inside = max(0, self._inside - (threading.get_ident() == self._thread))

    def _on_words(self, name: str, embed: nn.Module, args: tuple[Any, ...]) -> None:
        """Some pipelines run the parts of their encoder one by one (Ideogram 4)."""
        if not self._inside and args and isinstance(args[0], Tensor) and args[0].dim() == 2:
            self.note(name, args[0].detach().cpu(), None)

    def note(self, encoder: str, ids: Tensor, mask: Tensor | None) -> None:
        """Write down what a text encoder was given in this thread."""
        if threading.get_ident() == self._thread:
            asked = [] if self._texts else self._asked()
            texts = _texts_of_rows(self._texts or asked, len(ids))
            calls = self._open().ids.setdefault(encoder, [])
            # What is read beside the prompt when nobody gave a negative one is the empty text.
            unsaid = (self._unsaid and encoder in self._running) or len(asked) == len(calls) == 1
            if unsaid and not torch.equal(calls[-1].ids, ids):
                texts = (("",),) * len(ids)
            self._running.add(encoder)
            calls.append(Captured(ids, mask, texts))

    def _on_encode(self, call_next: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return call_next(*args, **kwargs)
        by_pipeline = self._called_by_pipeline()
        if not by_pipeline:
            self.seal()
        outer, self._texts = self._texts, _written(self.pipe.encode_prompt, args, kwargs)
        self._unsaid = _unsaid(self.pipe.encode_prompt, args, kwargs)
        outside, self._running = self._running, set()
        try:
            result = call_next(*args, **kwargs)
        finally:
            used, self._running = self._running, outside
            self._texts = outer
        prompts = self._open()
        found = list(_embeddings(result)) or list(_embeddings(result, axes=4))
        sides = _sides(self.pipe.encode_prompt, found)
        # The same prompt, read by another encoder (Hunyuan-DiT).
        again = prompts.positive is not None and used and not used & prompts.encoders
        prompts.encoders |= used
        if len(sides) > 1 or prompts.positive is None:
            prompts.positive = sides[0] if sides else None
            prompts.negative = sides[1] if len(sides) > 1 else None
        elif sides and sides[0] is not prompts.positive and not again:
            prompts.negative = sides[0]
        # A user who encodes a prompt beforehand starts nothing: the pipeline's own call will.
        prompts.sealed = not by_pipeline
        return result

    def _called_by_pipeline(self) -> bool:
        return self._call() is not None

    def _call(self) -> FrameType | None:
        """The call of the pipeline that is running."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is self.pipe:
                return frame
            frame = frame.f_back
        return None

    def _asked(self) -> list[Any]:
        """What the pipeline was called with, where it encodes its prompts in parts of its own (FLUX.3)."""
        frame = None if callable(getattr(self.pipe, "encode_prompt", None)) else self._call()
        if frame is None:
            return []
        given = dict(frame.f_locals)
        return _spelled({**given, **(given.get("kwargs") or {})})


_open_books: list[PromptBook] = []


def announce(pipe: Any, encoder: str, ids: Tensor, mask: Tensor | None) -> None:
    """Tell the sessions open on `pipe` what a text encoder was given whose output is replayed, not computed.

    Called from within the `encode_prompt` that replays, as the encoder's own call would have been.
    """
    for book in tuple(_open_books):
        if book.pipe is pipe:
            book.note(encoder, ids, mask)


def _word_embeddings(encoder: nn.Module) -> nn.Module | None:
    """The table of word embeddings of a text encoder of transformers."""
    try:
        found = encoder.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, nn.Module) else None


def encoder_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None] | None:
    """Token ids `[prompt, position]` and mask of a call of a text encoder, on the CPU; None where it is given
    something else."""
    ids, mask = kwargs.get("input_ids", args[0] if args else None), kwargs.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        return None
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        return ids.detach().cpu(), mask.detach().to("cpu", torch.bool)
    return ids.detach().cpu(), None


def _written(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The prompts among the arguments of `encode_prompt`: texts, or lists with one text per prompt."""
    try:
        given = inspect.signature(call).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # the call itself will say what is wrong
        return []
    return _spelled(given)


def _spelled(given: Mapping[str, Any]) -> list[Any]:
    values = [value for name, value in given.items() if _TEXTS.fullmatch(name)]
    return [
        # Some pipelines write their templates into the lists they are given.
        list(value) if isinstance(value, (list, tuple)) else value
        for value in values
        if isinstance(value, str)
        or (isinstance(value, (list, tuple)) and value and all(isinstance(text, str) for text in value))
    ]


def _unsaid(call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether `encode_prompt` takes a negative prompt and was given none."""
    try:
        signature = inspect.signature(call)
        given = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return False
    names = [name for name in signature.parameters if (m := _TEXTS.fullmatch(name)) and m.group(1)]
    return bool(names) and all(given.get(name) is None for name in names)


def _texts_of_rows(written: list[Any], rows: int) -> tuple[tuple[str, ...], ...]:
    """For each encoded row the texts it may spell; a list of another length may belong to any row."""
    if not written:
        return ()
    found = []
    for row in range(rows):
        here: list[str] = []
        for value in written:
            one = [value] if isinstance(value, str) else [value[row]] if len(value) == rows else value
            here += one
        found.append(tuple(dict.fromkeys(here)))
    return tuple(found)


def _sides(call: Any, embeddings: list[Any]) -> list[Any]:
    """The embeddings of the prompt and, behind them, of the negative prompt, where it has any. Embeddings of
    another width are a second encoder's (AudioLDM 2, HunyuanVideo 1.5); lyrics stand beside the prompt
    (ACE-Step)."""
    try:
        names = inspect.signature(call).parameters
    except (TypeError, ValueError):
        names = {}  # type: ignore[assignment]
    widths = {value[0].shape[-1] for value in embeddings[:2]}
    return embeddings[:1] if len(widths) > 1 or "lyrics" in names else embeddings


def _embeddings(result: Any, axes: int = 3) -> Iterator[Any]:
    """Per-token embeddings among what `encode_prompt` returned: three axes (four where each token has several
    layers), floats, more than coordinates."""
    for value in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(value, Tensor):
            if value.dim() == axes and value.is_floating_point() and value.shape[-1] > 4:
                yield value
        elif (
            isinstance(value, (list, tuple))
            and value
            and all(isinstance(v, Tensor) and v.dim() == 2 for v in value)
        ):
            yield list(value)
