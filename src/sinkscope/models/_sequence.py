"""Which tokens a language model attends to: ids of all keys, also of those that lie in its cache.

The ids of a forward pass are in its arguments; those of the tokens in the cache are remembered from the
passes before, or, inside `generate`, taken from the whole sequence that `generate` hands around (beam search
reorders the cache between two passes).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._call import Role
from ._patch import wrap
from ._tokens import TextToken, piece_text

UNKNOWN_ID = -1
"""Stands for a token whose id nobody was told (`inputs_embeds`, a cache filled before the block)."""
_ROLES: tuple[Role | None, ...] = (None, "bos", "content", "eos", "pad", "template", "mask")
_CODES = {role: code for code, role in enumerate(_ROLES)}
_IMAGE_IDS = ("image_token_id", "image_token_index")


class Marks(NamedTuple):
    """Ids with a meaning of their own."""

    bos: int | None
    eos: frozenset[int]
    pad: int | None
    mask: int | None
    image: int | None
    others: frozenset[int]
    """Further special ids of the tokenizer: turns, system marks, ..."""

    @classmethod
    def of(cls, tokenizer: Any, config: Any) -> Marks:
        """The marks of a tokenizer; where there is none, those that the model's configuration names."""
        text = getattr(config, "text_config", None) or config

        def mark(name: str) -> Any:
            found = getattr(tokenizer, f"{name}_token_id", None)
            return getattr(text, f"{name}_token_id", None) if tokenizer is None else found

        ends = getattr(text, "eos_token_id", None)
        several = ends if isinstance(ends, (list, tuple)) else [ends]
        eos = {end for end in (mark("eos"), *several) if isinstance(end, int)}
        images = (getattr(config, name, None) for name in _IMAGE_IDS)
        image = next((token for token in images if token is not None), None)
        unknown = getattr(tokenizer, "unk_token_id", None)
        named = {mark("bos"), mark("pad"), mark("mask"), image, unknown, *eos}
        special = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or ()}
        return cls(mark("bos"), frozenset(eos), mark("pad"), mark("mask"), image, frozenset(special - named))


def sequence_roles(ids: Sequence[int], real: Sequence[bool] | None, marks: Marks) -> list[Role | None]:
    """Role of each token of one row.

    Args:
        ids: Token ids of the whole row.
        real: False where the model's attention mask hides a token; None where it was given no mask.
        marks: Special ids.

    Returns:
        "pad" for hidden tokens and for runs of the padding id at either end (after the end mark where both
        are one id); "bos" for the begin mark in front, "eos" for end marks, "mask" for tokens that a
        masked-diffusion model has still to write, "template" for further special ids, None for unknown and
        image tokens.
    """
    count = len(ids)
    hidden = [False] * count if real is None else [not here for here in real]
    pads = list(hidden)
    if marks.pad is not None:
        stop = count
        while stop and (ids[stop - 1] == marks.pad or pads[stop - 1]):
            stop -= 1
        # Where padding and end mark share an id, the first of the run is the end mark.
        first = stop + (marks.pad in marks.eos and stop > 0 and stop < count and not hidden[stop])
        if first < count and (marks.pad not in marks.eos or stop > 0):
            pads[first:] = [True] * (count - first)
        if real is None and marks.pad not in marks.eos and marks.pad != marks.bos:
            for position in range(stop):
                if ids[position] != marks.pad:
                    break
                pads[position] = True
    begin = next((position for position in range(count) if not pads[position]), None)
    return [
        "pad" if pads[position] else _role(token, position == begin, marks)
        for position, token in enumerate(ids)
    ]


def _role(token: int, first: bool, marks: Marks) -> Role | None:
    if token in (UNKNOWN_ID, marks.image):
        return None
    if first and token == marks.bos:
        return "bos"
    if token in marks.eos:
        return "eos"
    if token == marks.mask:
        return "mask"
    return "template" if token in marks.others or token == marks.bos else "content"


class Text:
    """The tokens of one forward pass of a language model and those in its cache."""

    def __init__(self, ids: Tensor, past: int, real: Tensor | None, marks: Marks, tokenizer: Any) -> None:
        self.ids = ids
        """Integers `[row, token]` on the CPU: the cache first, then the tokens of this pass."""
        self.past = past
        """Tokens that were in the cache before the pass."""
        self.real = real
        """False where the attention mask hides a token, `[row, token]`; None without a mask."""
        self.marks, self._tokenizer = marks, tokenizer
        self._rows: dict[int, tuple[TextToken, ...]] = {}

    @cached_property
    def images(self) -> Tensor:
        """Places of a picture's tokens among the words, bool `[row, token]`."""
        if self.marks.image is None:
            return torch.zeros_like(self.ids, dtype=torch.bool)
        return self.ids == self.marks.image

    def role(self, name: Role) -> Tensor:
        """Tokens of a role, bool `[row, token]`."""
        return self._codes == _CODES[name]

    @cached_property
    def _codes(self) -> Tensor:
        return torch.tensor([[_CODES[role] for role in row] for row in self._roles]).view(self.ids.shape)

    @cached_property
    def _roles(self) -> list[list[Role | None]]:
        reals: list[Any] = [None] * len(self.ids) if self.real is None else self.real.tolist()
        rows = zip(self.ids.tolist(), reals, strict=True)
        return [sequence_roles(ids, real, self.marks) for ids, real in rows]

    def row(self, row: int) -> tuple[TextToken, ...]:
        """String and role of each token of a row."""
        if row not in self._rows:
            pairs = zip(self._strings(self.ids[row].tolist()), self._roles[row], strict=True)
            self._rows[row] = tuple(TextToken(string, role, None) for string, role in pairs)
        return self._rows[row]

    def _strings(self, ids: Sequence[int]) -> list[str | None]:
        if not hasattr(self._tokenizer, "convert_ids_to_tokens"):
            return [None] * len(ids)
        known = self._tokenizer.convert_ids_to_tokens([max(token, 0) for token in ids])
        # The image mark of a model need not be a word of its tokenizer.
        silent = (UNKNOWN_ID, self.marks.image)
        pairs = zip(ids, known, strict=True)
        return [None if token in silent else piece_text(piece) for token, piece in pairs]


class TextBook:
    """Follows the token ids of one language model through its forward passes.

    Args:
        root: The model.
        tokenizer: Gives the tokens their strings and special ids; None: ids only, marks from the model's
            configuration. A processor that holds a tokenizer will do.
    """

    def __init__(self, root: nn.Module, tokenizer: Any) -> None:
        self.root = root
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        self.marks = Marks.of(self.tokenizer, getattr(root, "config", None))
        self._thread = 0
        self._sequence: Tensor | None = None
        self._history: Tensor | None = None

    def install(self, stack: ExitStack) -> None:
        """Listen to `generate` until `stack` closes."""
        self._thread = threading.get_ident()
        self._sequence = self._history = None
        if callable(getattr(self.root, "prepare_inputs_for_generation", None)):
            stack.callback(wrap(self.root, "prepare_inputs_for_generation", self._on_prepare))

    def _on_prepare(
        self, call_next: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        ids = args[0] if args else kwargs.get("input_ids")
        if threading.get_ident() == self._thread and isinstance(ids, Tensor) and ids.dim() == 2:
            self._sequence = ids.detach().cpu()
        return call_next(*args, **kwargs)

    def read(self, inputs: Mapping[str, Any]) -> Text | None:
        """The tokens of the forward pass that starts now; None where it is given none."""
        given, known = _given(inputs)
        if given is None:
            return None
        past = _cached(inputs)
        sequence, self._sequence = self._sequence, None
        ids = given
        if past:
            ids = torch.cat([self._earlier(sequence, given, past), given], dim=1)
        # Prompts given as embeddings have no ids in `generate` either.
        elif not known and sequence is not None and sequence.shape == given.shape:
            ids = sequence
        self._history = ids
        return Text(ids, past, _real(inputs, ids), self.marks, self.tokenizer)

    def _earlier(self, sequence: Tensor | None, given: Tensor, past: int) -> Tensor:
        """Ids of the tokens in the cache."""
        rows = len(given)
        if sequence is not None and sequence.shape == (rows, past + given.shape[1]):
            return sequence[:, :past]
        history = self._history
        if history is not None and len(history) == rows and history.shape[1] >= past:
            return history[:, :past]
        return given.new_full((rows, past), UNKNOWN_ID)


def _given(inputs: Mapping[str, Any]) -> tuple[Tensor | None, bool]:
    """Ids `[row, token]` of a forward pass on the CPU, and whether they are known."""
    ids, embeddings = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if isinstance(ids, Tensor) and ids.dim() == 2:
        return ids.detach().cpu(), True
    if isinstance(embeddings, Tensor) and embeddings.dim() == 3:
        return torch.full(embeddings.shape[:2], UNKNOWN_ID), False
    return None, False


def _cached(inputs: Mapping[str, Any]) -> int:
    """Tokens in the cache."""
    cache = inputs.get("past_key_values")
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0][0].shape[2])


def _real(inputs: Mapping[str, Any], ids: Tensor) -> Tensor | None:
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[0] != len(ids):
        return None
    # A cache of fixed size comes with a mask of that size.
    mask = mask.detach().to("cpu", torch.bool)[:, : ids.shape[1]]
    return mask if mask.shape == ids.shape else None
