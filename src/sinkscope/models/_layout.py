"""Which token is what: segments and identities of the keys and queries of one call.

For a listed family the order of the streams comes from its table and their lengths from the inputs of the
running forward pass. For any other model the order is found by `_probe` at the first forward pass of each
input shape. Where neither tells, a segment is absent: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._call import AttentionCall, Role, Token
from ._grid import Place, visual_places
from ._probe import Labels, probe_layout
from ._spans import Row, Span, Spans, by_row, chain, length_of, local_name, masks, runs
from ._tokens import Part, TextToken, text_parts, text_tokens
from ._tracker import Evaluation
from .families import Family, family_of

VISUAL = ("image", "video")
"""Segments whose tokens have a place in a picture."""
_NUMBERS = re.compile(r"\d+(?=\.)")
_ROLES = {"bos": "bos", "content": "content", "padding": "pad"}
"""Segments of the text that are the tokens of one role."""


class Layout:
    """Segments of one pipeline's calls."""

    def __init__(self, pipe: Any, roots: dict[str, nn.Module]) -> None:
        self.pipe, self.roots = pipe, roots
        self.families = {part: family_of(root) for part, root in roots.items()}
        self._probed: dict[Any, Mapping[str, Labels]] = {}

    def prepare(
        self, evaluation: Evaluation, args: tuple[Any, ...], kwargs: dict[str, Any], start: str
    ) -> None:
        """Find the layout of an unlisted model before its forward pass, once per input shape."""
        root = self.roots[evaluation.part]
        if self.families[evaluation.part] is not None:
            return
        key = (evaluation.part, _shapes(evaluation.inputs))
        if key not in self._probed:
            labels = probe_layout(root, args, kwargs)
            self._probed[key] = {start + name: found for name, found in labels.items()}
        evaluation.cache["probe"] = self._probed[key]

    def describe(self, call: AttentionCall, evaluation: Evaluation) -> AttentionCall:
        """Add the segments of keys and queries."""
        keys, queries = self._rows(call, evaluation)
        counts = (call.q.shape[2], call.k.shape[2], call.k.device)
        key = ("segments", evaluation.part, counts, _short(keys), _short(queries), call.rows)
        kept = self._kept(evaluation)
        if key not in kept:
            found = masks(keys, call.k.shape[2], call.k.device)
            for name, mask in self._text_masks(call, evaluation, keys).items():
                found[name] = found[name] | mask if name in found else mask
            kept[key] = (found, masks(queries, call.q.shape[2], call.q.device))
        key_masks, query_masks = kept[key]
        return call.replace(
            key_segments=key_masks,
            query_segments=query_masks,
            token_source=lambda c: self.tokens(c, evaluation),
        )

    def _place(self, call: AttentionCall, evaluation: Evaluation) -> tuple[Any, ...]:
        """What calls of one forward pass have in common that are laid out alike."""
        shape = (call.q.shape[0], call.q.shape[2], call.k.shape[2])
        family = self.families[evaluation.part]
        if family is None:
            return ("spans", call.site.key, *shape)
        # Streams of the same length may have attention of their own in one block.
        name = local_name(call, evaluation)
        alike = name if family.by_block else _NUMBERS.sub("", name)
        return ("spans", alike, call.site.kind, call.site.index, *shape)

    def _kept(self, evaluation: Evaluation) -> dict[Any, Any]:
        """Where masks and tokens are remembered: for the whole generation, unless they were probed in this
        pass."""
        listed = self.families[evaluation.part] is not None
        return evaluation.cache if evaluation.prompts is None or not listed else evaluation.prompts.cache

    # ---- spans

    def _rows(self, call: AttentionCall, evaluation: Evaluation) -> tuple[list[Row], list[Row]]:
        """Spans of keys and queries of each row."""
        key, kept = self._place(call, evaluation), evaluation.cache
        if key not in kept:
            spans, count = self._spans(call, evaluation), call.q.shape[0]
            kept[key] = by_row(spans.keys, count), by_row(spans.queries, count)
        keys, queries = kept[key]
        return keys, queries

    def _spans(self, call: AttentionCall, evaluation: Evaluation) -> Spans:
        family = self.families[evaluation.part]
        if family is None:
            return _probed(call, evaluation.cache.get("probe", {}).get(call.site.key))
        told = None if family.spans is None else family.spans(call, evaluation)
        if told is not None:
            return told
        queries, keys, text = call.q.shape[2], call.k.shape[2], text_length(evaluation)
        if call.site.kind == "joint":
            # Adapters make further calls in the same module, with keys of their own.
            if call.site.index:
                return Spans([], _concatenated(family, queries, text))
            return Spans(_concatenated(family, keys, text), _concatenated(family, queries, text))
        own = chain((family.visual, queries))
        if call.site.kind == "cross":
            return Spans(chain(("text", keys)) if keys == text and call.site.index == 0 else [], own)
        return Spans(chain((family.visual, keys)) if keys == queries else [], own)

    def _parts(self, evaluation: Evaluation, length: int) -> tuple[Part, ...]:
        kept, key = self._kept(evaluation), ("parts", evaluation.part, length)
        if key not in kept:
            clip = getattr(self.pipe, "tokenizer_max_length", None)
            family = self.families[evaluation.part]
            kept[key] = text_parts(family, evaluation.prompts, length, clip)
        parts: tuple[Part, ...] = kept[key]
        return parts

    def _row_tokens(
        self, evaluation: Evaluation, branch: Any, unit: int, length: int
    ) -> tuple[TextToken, ...]:
        kept, key = self._kept(evaluation), ("tokens", evaluation.part, branch, unit, length)
        if key not in kept:
            parts = self._parts(evaluation, length)
            family = self.families[evaluation.part]
            kept[key] = text_tokens(
                self.pipe,
                parts,
                evaluation.prompts,
                length,
                branch=branch,
                unit=unit,
                units=1 + max((info.unit for info in evaluation.rows), default=0),
                taken=None if family is None else family.taken,
            )
        tokens: tuple[TextToken, ...] = kept[key]
        return tokens

    def _text_masks(self, call: AttentionCall, evaluation: Evaluation, keys: list[Row]) -> dict[str, Tensor]:
        """Parts of the text, where it has several, and its begin mark, words and padding, row by row, where
        the tokens are known."""
        count = call.k.shape[2]
        parts: list[list[Span]] = []
        roles = {name: torch.zeros(len(keys), count, dtype=torch.bool) for name in _ROLES}
        for number, (info, row) in enumerate(zip(call.rows, keys, strict=False)):
            length = length_of(row, "text")
            if length == 0:
                continue
            said = self._row_tokens(evaluation, info.branch, info.unit, length)
            parts.append([])
            for span in row:
                if span.name != "text":
                    continue
                here = said[span.first : span.first + span.stop - span.start]
                for name, role in _ROLES.items():
                    mask = torch.tensor([token.role == role for token in here])
                    roles[name][number, span.start : span.stop] = mask
                parts[-1] += _inside(span, self._parts(evaluation, length))
        several = len({span.name for row in parts for span in row}) > 1 and len(parts) == len(keys)
        found = masks([tuple(row) for row in parts], count, call.k.device) if several else {}
        return {**found, **{name: mask.to(call.k.device) for name, mask in roles.items() if mask.any()}}

    # ---- identities

    def tokens(self, call: AttentionCall, evaluation: Evaluation) -> tuple[tuple[Token, ...], ...]:
        """One `Token` per key, for each row."""
        spans, _ = self._rows(call, evaluation)
        # Rows of the call per row of the batch: frames, or places where frames attend to each other.
        folds = max(1, len(call.rows) // max(1, len(evaluation.rows)))
        every = {span for row in spans for span in row}
        grids = {span: self._places(call, evaluation, span, folds) for span in every}
        placed = folds > 1 and any(grid is not None for grid in grids.values())
        kept = evaluation.cache if evaluation.prompts is None else evaluation.prompts.cache
        where = (evaluation.part, evaluation.generation, call.k.shape[2], call.site.kind)
        rows = []
        for number, (info, row) in enumerate(zip(call.rows, spans, strict=True)):
            fold = number % folds if placed else 0
            key = (*where, row, info.branch, info.unit, fold)
            if key not in kept:
                here = {span: grid[fold] for span in row if (grid := grids[span]) is not None}
                kept[key] = self._row(call, evaluation, info, row, here)
            rows.append(kept[key])
        return tuple(rows)

    def _places(
        self, call: AttentionCall, evaluation: Evaluation, span: Span, folds: int
    ) -> list[list[Place]] | None:
        family = self.families[evaluation.part]
        if span.name not in (VISUAL if family is None else (family.visual,)):
            return None
        return visual_places(
            evaluation.inputs,
            span.stop - span.start,
            config=getattr(self.roots[evaluation.part], "config", None),
            axes=None if family is None else family.latents,
            folds=folds,
            temporal=call.site.kind == "temporal",
        )

    def _row(self, call: AttentionCall, evaluation: Evaluation, info: Any, row: Row, grids: Any) -> Any:
        tokens = [Token(key, "unknown", key) for key in range(call.k.shape[2])]
        length = length_of(row, "text")
        text = self._row_tokens(evaluation, info.branch, info.unit, length) if length else ()
        for span in row:
            grid = grids.get(span)
            # Padding that a model learned stands in for tokens, and is told from them by its segment.
            behind: Role | None = "pad" if span.name == "padding" else None
            for key in range(span.start, span.stop):
                position = span.first + key - span.start
                string, role, encoder = text[position] if span.name == "text" else (None, behind, None)
                place = grid[key - span.start] if grid else (None, None, None)
                frame, line, column = place
                tokens[key] = Token(key, span.name, position, string, role, encoder, line, column, frame)
        return tuple(tokens)


def _short(rows: list[Row]) -> tuple[Row, ...]:
    """Rows to tell layouts apart by; thousands of folded rows are told by one where all are the same."""
    return tuple(rows[:1] if all(row is rows[0] for row in rows) else rows)


def _shapes(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a probed layout depends on: the shapes of the inputs, and what masks hold."""
    found: list[Any] = []
    for name, value in inputs.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        tensors = [part for part in values if isinstance(part, Tensor)]
        held = [part.tolist() for part in tensors if "mask" in name and part.dim() == 2]
        found.append((name, [tuple(part.shape) for part in tensors], held))
    return (repr(found),)


def _probed(call: AttentionCall, labels: Labels | None) -> Spans:
    shape = (call.k.shape[2], call.q.shape[2])
    if labels is None or (len(labels.keys), len(labels.queries)) != shape:
        return Spans([], [])
    if len(labels.key_rows) != call.k.shape[0]:
        return Spans(runs(labels.keys), runs(labels.queries))
    return Spans([runs(row) for row in labels.key_rows], [runs(row) for row in labels.query_rows])


def _inside(span: Span, parts: tuple[Part, ...]) -> list[Span]:
    """The parts of the text that a run of it holds."""
    last = span.first + span.stop - span.start
    found = [(part.name, max(part.start, span.first), min(part.stop, last)) for part in parts]
    move = span.start - span.first
    return [Span(name, start + move, stop + move) for name, start, stop in found if start < stop]


def text_length(evaluation: Evaluation) -> int | None:
    text = evaluation.inputs.get("encoder_hidden_states")
    if not isinstance(text, Tensor) or text.dim() < 3:
        return None
    return text.shape[1:-1].numel()


def _concatenated(family: Family, count: int, text: int | None) -> list[Span]:
    """Streams of joint attention one behind the other; only images where a call holds fewer tokens than the
    text."""
    if text is None or count <= text or set(family.joint) != {family.visual, "text"}:
        return []
    return chain(*((name, text if name == "text" else count - text) for name in family.joint))
