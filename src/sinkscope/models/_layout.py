"""Which token is what: segments and identities of the keys and queries of one call.

For a listed family the order of the streams comes from its table and their lengths from the inputs of the
running forward pass. For any other model the order is found by `_probe` at the first forward pass of each
input shape. Where neither tells, a segment is absent: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ._call import AttentionCall, Token
from ._grid import Place, visual_places
from ._probe import Labels, probe_layout
from ._spans import Span
from ._tokens import Part, TextToken, text_parts, text_tokens
from ._tracker import Evaluation
from .families import Family, family_of

VISUAL = ("image", "video")
"""Segments whose tokens have a place in a picture."""


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
        shapes = tuple(
            (name, tuple(v.shape)) for name, v in evaluation.inputs.items() if isinstance(v, Tensor)
        )
        key = (evaluation.part, shapes)
        if key not in self._probed:
            labels = probe_layout(root, args, kwargs)
            self._probed[key] = {start + name: found for name, found in labels.items()}
        evaluation.cache["probe"] = self._probed[key]

    def describe(self, call: AttentionCall, evaluation: Evaluation) -> AttentionCall:
        """Add the segments of keys and queries."""
        family = self.families[evaluation.part]
        site = (call.site.kind, call.site.index) if family and family.spans is None else call.site.key
        shape = (evaluation.part, site, call.q.shape[0], call.q.shape[2], call.k.shape[2], call.k.device)
        key = ("segments", shape, text_length(evaluation), call.rows)
        kept = self._kept(evaluation)
        if key not in kept:
            keys, queries = self._spans(call, evaluation)
            masks = _masks(keys, call.k.shape[2], call.k.device)
            masks.update(self._text_masks(call, evaluation, keys))
            kept[key] = (masks, _masks(queries, call.q.shape[2], call.q.device))
        masks, query_masks = kept[key]
        return call.replace(
            key_segments=masks, query_segments=query_masks, token_source=lambda c: self.tokens(c, evaluation)
        )

    def _kept(self, evaluation: Evaluation) -> dict[Any, Any]:
        """Where layouts are remembered: for the whole generation, unless they were probed in this pass."""
        listed = self.families[evaluation.part] is not None
        return evaluation.cache if evaluation.prompts is None or not listed else evaluation.prompts.cache

    # ---- spans

    def _spans(self, call: AttentionCall, evaluation: Evaluation) -> tuple[list[Span], list[Span]]:
        queries, keys = call.q.shape[2], call.k.shape[2]
        family = self.families[evaluation.part]
        if family is None:
            labels = evaluation.cache.get("probe", {}).get(call.site.key)
            if labels is None or (len(labels.keys), len(labels.queries)) != (keys, queries):
                return [], []
            return _runs(labels.keys), _runs(labels.queries)
        told = None if family.spans is None else family.spans(call, evaluation)
        if told is not None:
            return cast("list[Span]", told.keys), cast("list[Span]", told.queries)
        text = text_length(evaluation)
        if call.site.kind == "joint":
            # Adapters make further calls in the same module, with keys of their own.
            if call.site.index:
                return [], _concatenated(family, queries, text)
            return _concatenated(family, keys, text), _concatenated(family, queries, text)
        image = [Span(family.visual, 0, queries)]
        if call.site.kind == "cross":
            return ([Span("text", 0, keys)] if keys == text and call.site.index == 0 else []), image
        return ([Span(family.visual, 0, keys)] if keys == queries else []), image

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
            kept[key] = text_tokens(self.pipe, parts, evaluation.prompts, length, branch=branch, unit=unit)
        tokens: tuple[TextToken, ...] = kept[key]
        return tokens

    def _text_masks(self, call: AttentionCall, evaluation: Evaluation, keys: list[Span]) -> dict[str, Tensor]:
        """Parts of the text, where it has several, and its begin mark, words and padding, row by row, where
        the tokens are known."""
        text = next((span for span in keys if span.name == "text"), None)
        if text is None:
            return {}
        count, length, device = call.k.shape[2], text.stop - text.start, call.k.device
        parts = self._parts(evaluation, length)
        spans = [Span(part.name, text.start + part.start, text.start + part.stop) for part in parts]
        masks = _masks(spans, count, device) if len(parts) > 1 else {}
        rows = [self._row_tokens(evaluation, info.branch, info.unit, length) for info in call.rows]
        for name, role in (("bos", "bos"), ("content", "content"), ("padding", "pad")):
            here = torch.zeros(len(rows), count, dtype=torch.bool)
            if rows:
                here[:, text.start : text.stop] = torch.tensor(
                    [[t.role == role for t in row] for row in rows]
                )
            if here.any():
                masks[name] = here.to(device)
        return masks

    # ---- identities

    def tokens(self, call: AttentionCall, evaluation: Evaluation) -> tuple[tuple[Token, ...], ...]:
        """One `Token` per key, for each row."""
        spans, _ = self._spans(call, evaluation)
        # Rows of the call per row of the batch: frames, or places where frames attend to each other.
        folds = max(1, len(call.rows) // max(1, len(evaluation.rows)))
        grids = {span: self._places(call, evaluation, span, folds) for span in spans}
        placed = folds > 1 and any(grid is not None for grid in grids.values())
        kept = evaluation.cache if evaluation.prompts is None else evaluation.prompts.cache
        where = (evaluation.part, evaluation.generation, call.k.shape[2], tuple(spans))
        rows = []
        for number, info in enumerate(call.rows):
            fold = number % folds if placed else 0
            key = (*where, call.site.kind, info.branch, info.unit, fold)
            if key not in kept:
                here = {span: grid[fold] for span, grid in grids.items() if grid is not None}
                kept[key] = self._row(call, evaluation, info, spans, here)
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

    def _row(
        self, call: AttentionCall, evaluation: Evaluation, info: Any, spans: list[Span], grids: Any
    ) -> Any:
        tokens = [Token(key, "unknown", key) for key in range(call.k.shape[2])]
        for span in spans:
            length = span.stop - span.start
            text = (
                self._row_tokens(evaluation, info.branch, info.unit, length) if span.name == "text" else None
            )
            grid = grids.get(span)
            for position in range(length):
                key = span.start + position
                string, role, encoder = text[position] if text else (None, None, None)
                frame, row, column = grid[position] if grid else (None, None, None)
                tokens[key] = Token(key, span.name, position, string, role, encoder, row, column, frame)
        return tuple(tokens)


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
    spans, start = [], 0
    for name in family.joint:
        length = text if name == "text" else count - text
        spans.append(Span(name, start, start + length))
        start += length
    return spans


def _runs(labels: tuple[str | None, ...]) -> list[Span]:
    spans: list[Span] = []
    for position, name in enumerate(labels):
        if name is None:
            continue
        if spans and spans[-1].name == name and spans[-1].stop == position:
            spans[-1] = Span(name, spans[-1].start, position + 1)
        else:
            spans.append(Span(name, position, position + 1))
    return spans


def _masks(spans: list[Span], count: int, device: torch.device) -> dict[str, Tensor]:
    masks: dict[str, Tensor] = {}
    for span in spans:
        mask = masks.setdefault(span.name, torch.zeros(count, dtype=torch.bool))
        mask[span.start : span.stop] = True
    return {name: mask.to(device) for name, mask in masks.items()}
