"""Segments and identities in language and vision models that are called as bare modules.

Language: all keys are "text" (a picture's tokens among the words "image"), with the token and its role;
queries are "text" but for padding, which no mean counts. Vision: "cls", "register", ... and "image" for the
patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ._call import AttentionCall, Token
from ._sequence import Text, TextBook
from ._towers import SINK_LOGIT, Tower, patch_grid, reads_text, special_tokens, tower_of
from ._tracker import Evaluation
from .families import family_of
from .families.language import READ_OFF

POOL = "pool"
"""Segment of the learned queries of a pooling head."""

Labels = list[list[tuple[str, int]]]
"""For each row the segment of each token and its index within the segment."""


class Reader:
    """What the keys of one model's calls are.

    Args:
        root: The model.
        start: What its site names start with.
        tokenizer: See `TextBook`.
    """

    def __init__(self, root: nn.Module, start: str, tokenizer: Any) -> None:
        self.root, self.start = root, start
        self.book = TextBook(root, tokenizer)
        self._towers: dict[str, Tower | None] = {}

    def install(self, stack: ExitStack) -> None:
        """Listen until `stack` closes."""
        self.book.install(stack)

    def prepare(self, evaluation: Evaluation, *_: Any) -> None:
        """Remember the token ids of the forward pass that starts now."""
        evaluation.cache["text"] = self.book.read(evaluation.inputs)

    def describe(self, call: AttentionCall, evaluation: Evaluation) -> AttentionCall:
        """Add the segments of keys and queries."""
        tower = self._tower(call.site.name)
        shapes = (call.q.shape, call.k.shape, call.k.device)
        key = (tower and tower.name, call.site.kind, *shapes, call.sinks, call.rows)
        kept = evaluation.cache
        if ("segments", key) not in kept:
            keys = self._keys(call, evaluation, tower)
            masks = _masks(keys, call.k.shape[2])
            queries: dict[str, Tensor] = {}
            text: Text | None = evaluation.cache.get("text")
            if text is not None and tower is not None and tower.reads == "text" and keys:
                masks |= _roles(call, text)
                queries = _text_queries(call, text)
            elif tower is not None and keys and call.site.kind == "cross":
                queries = {POOL: torch.ones(call.q.shape[2], dtype=torch.bool)}
            elif tower is not None and keys and call.q.shape[2] == call.k.shape[2]:
                queries = masks
            kept[("segments", key)] = [
                {name: mask.to(call.k.device) for name, mask in part.items()} for part in (masks, queries)
            ]
        masks, queries = kept[("segments", key)]
        source = partial(self._tokens, evaluation=evaluation)
        return call.replace(key_segments=masks, query_segments=queries, token_source=source)

    def _tower(self, site: str) -> Tower | None:
        if site not in self._towers:
            self._towers[site] = tower_of(self.root, site.removeprefix(self.start))
        return self._towers[site]

    # ---- keys

    def _keys(self, call: AttentionCall, evaluation: Evaluation, tower: Tower | None) -> Labels:
        """Labels of the keys; empty where nobody knows."""
        if tower is None:
            return []
        if tower.reads == "text":
            return _text_keys(call, evaluation.cache.get("text"))
        special, keys = special_tokens(tower), call.k.shape[2]
        if call.site.kind == "cross":
            # A pooling head looks at the patches, with the learned tokens or without them.
            if special and patch_grid(tower, evaluation.inputs, keys) is not None:
                special = ()
            elif special and patch_grid(tower, evaluation.inputs, keys - len(special)) is None:
                return []
        elif call.q.shape[2] != keys or keys <= len(special):
            return []
        row = _counted([*special, *["image"] * (keys - len(special))])
        return [row] * call.k.shape[0]

    def _tokens(self, call: AttentionCall, evaluation: Evaluation) -> tuple[tuple[Token, ...], ...]:
        """One `Token` per key, for each row."""
        tower = self._tower(call.site.name)
        key = ("tokens", tower and tower.name, call.site.kind, call.k.shape[2], call.sinks, call.rows)
        if key not in evaluation.cache:
            labels = self._keys(call, evaluation, tower)
            evaluation.cache[key] = tuple(
                self._row(call, evaluation, tower, row, labels[row] if labels else None)
                for row in range(call.k.shape[0])
            )
        found: tuple[tuple[Token, ...], ...] = evaluation.cache[key]
        return found

    def _row(
        self,
        call: AttentionCall,
        evaluation: Evaluation,
        tower: Tower | None,
        row: int,
        labels: Sequence[tuple[str, int]] | None,
    ) -> tuple[Token, ...]:
        count = call.k.shape[2]
        if labels is None or tower is None:
            return tuple(Token(key, "unknown", key) for key in range(count))
        images = sum(segment == "image" for segment, _ in labels)
        seen = tower if tower.reads == "image" else self._vision()
        grid = None if seen is None or not images else patch_grid(seen, evaluation.inputs, images)
        text = evaluation.cache.get("text") if tower.reads == "text" else None
        known = None if text is None else text.row(call.rows[row].unit)[_first(call, text) :]
        tokens = []
        for key, (segment, position) in enumerate(labels):
            if segment == "image":
                place = grid[position] if grid else (None, None)
                tokens.append(Token(key, segment, position, row=place[0], column=place[1]))
            elif segment == "text" and known is not None:
                tokens.append(Token(key, segment, position, known[key].text, known[key].role))
            else:
                tokens.append(Token(key, segment, position))
        return tuple(tokens)

    def _vision(self) -> Tower | None:
        """The vision part of a vision-language model."""
        for name, part in self.root.named_modules():
            if getattr(part, "main_input_name", None) == "pixel_values":
                return Tower(name, part, "image")
        return None


def _counted(segments: Sequence[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    found = []
    for segment in segments:
        found.append((segment, counts.get(segment, 0)))
        counts[segment] = counts.get(segment, 0) + 1
    return found


def _masks(labels: Labels, count: int) -> dict[str, Tensor]:
    """Segment name to bool `[key]`, or `[row, key]` where rows differ."""
    names = list(dict.fromkeys(segment for row in labels for segment, _ in row))
    alike = all(row == labels[0] for row in labels[1:])
    rows = labels[:1] if alike else labels
    masks = {
        name: torch.tensor([[segment == name for segment, _ in row] for row in rows]).view(len(rows), count)
        for name in names
    }
    return {name: mask[0] if alike else mask for name, mask in masks.items()}


# ---- text


def _first(call: AttentionCall, text: Text) -> int:
    """Place in the sequence of the first key: a sliding cache has dropped those before it."""
    return max(0, text.ids.shape[1] - (call.k.shape[2] - call.sinks))


def _text_keys(call: AttentionCall, text: Text | None) -> Labels:
    keys = call.k.shape[2] - call.sinks
    if text is None or call.site.kind == "cross" or call.k.shape[0] != len(call.rows):
        return []
    if any(info.unit >= len(text.ids) for info in call.rows):
        return []
    first, length = _first(call, text), text.ids.shape[1]
    rows = []
    for info in call.rows:
        images = text.images[info.unit].tolist()
        row = _counted(["image" if image else "text" for image in images])[first:]
        # A cache of fixed size has room that holds no token yet.
        room = [("unused", place) for place in range(keys - min(keys, length))]
        rows.append([*row, *room, *[(SINK_LOGIT, place) for place in range(call.sinks)]])
    return rows


def _roles(call: AttentionCall, text: Text) -> dict[str, Tensor]:
    """Begin mark, words, padding and tokens still to write, row by row, where there are any."""
    units = [info.unit for info in call.rows]
    found: dict[str, Tensor] = {}
    for name, role in (("bos", "bos"), ("content", "content"), ("padding", "pad"), ("masked", "mask")):
        here = text.role(role)[units][:, _first(call, text) :]  # type: ignore[arg-type]
        if here.any():
            mask = torch.zeros(len(units), call.k.shape[2], dtype=torch.bool)
            mask[:, : here.shape[1]] = here
            found[name] = mask
    return found


def _text_queries(call: AttentionCall, text: Text) -> dict[str, Tensor]:
    """Queries that are words, and those that are padding if there are any; none where there are other
    queries than the tokens of this pass."""
    count = call.q.shape[2]
    if count != text.ids.shape[1] - text.past:
        return {}
    units = [info.unit for info in call.rows]
    padding, images = (part[units][:, text.past :] for part in (text.role("pad"), text.images))
    queries = {"text": ~(padding | images)}
    return {**queries, "padding": padding} if padding.any() else queries


def readers_of(pipe: Any, roots: dict[str, nn.Module], tokenizer: Any) -> dict[str, Reader]:
    """A reader for each model of transformers or timm among the roots.

    Raises:
        UsageError: a tokenizer was given, but no model that reads token ids.
    """
    own = tokenizer
    if tokenizer is None and not isinstance(pipe, nn.Module):
        own = getattr(pipe, "tokenizer", None)
    several = len(roots) > 1
    found = {
        part: Reader(root, f"{part}." if several else "", own)
        for part, root in roots.items()
        if family_of(root) is READ_OFF
    }
    if tokenizer is not None and not any(reads_text(reader.root) for reader in found.values()):
        names = ", ".join(type(root).__name__ for root in roots.values())
        raise UsageError(
            f"Got tokenizer=..., but {names} is no language model of transformers. Leave it out: a pipeline "
            "brings its own tokenizers."
        )
    return found
