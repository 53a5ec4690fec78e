"""Identities of text tokens: string, role and encoder of each position of the text segment.

The ids are the ones the text encoders were given, so truncation, padding and chat templates are seen as they
are. `_text_roles` says which of them are the user's words. Where several encoders share a position (their
features are concatenated), the strings are joined by " / " if they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ._call import Branch, Role
from ._prompts import Captured, Prompts
from ._text_roles import text_roles
from .families import Family, Taken


class TextToken(NamedTuple):
    """One position of the text segment."""

    text: str | None
    role: Role | None
    encoder: str | None


class Part(NamedTuple):
    """A run of text positions made by the same encoders."""

    name: str
    encoders: tuple[str, ...]
    start: int
    stop: int


_UNKNOWN = TextToken(None, None, None)


def text_parts(
    family: Family | None, prompts: Prompts | None, length: int, clip_length: int | None
) -> tuple[Part, ...]:
    """Which encoders made which positions of a text segment of some length.

    For a listed family the table says it; otherwise encoders whose sequences have the same length are taken
    to share positions, and groups are laid one behind another when their lengths add up. Nothing is guessed
    when they do not.
    """
    lengths = {} if prompts is None else {name: calls[0].ids.shape[1] for name, calls in prompts.ids.items()}
    groups: Sequence[tuple[str, tuple[str, ...]]]
    if family is not None and family.text:
        groups = family.text
    else:
        by_length: dict[int, list[str]] = {}
        for name, count in lengths.items():
            by_length.setdefault(count, []).append(name)
        exact = by_length.get(length)
        groups = (
            [("text", tuple(exact))]
            if exact
            else [("+".join(names), tuple(names)) for names in by_length.values()]
        )
        if not exact and sum(by_length) != length:
            return ()
    return _lay_out(groups, lengths, length, clip_length)


def _lay_out(
    groups: Sequence[tuple[str, tuple[str, ...]]],
    lengths: dict[str, int],
    length: int,
    clip_length: int | None,
) -> tuple[Part, ...]:
    parts, start = [], 0
    for position, (name, encoders) in enumerate(groups):
        known = [lengths[encoder] for encoder in encoders if encoder in lengths]
        last = position == len(groups) - 1
        size = length - start if last else known[0] if known else clip_length
        if size is None or start + size > length:
            return ()
        parts.append(Part(name, encoders, start, start + size))
        start += size
    return tuple(parts)


def text_tokens(
    pipe: Any,
    parts: Sequence[Part],
    prompts: Prompts | None,
    length: int,
    *,
    branch: Branch,
    unit: int,
    units: int = 1,
    taken: Taken | Literal["last"] | None = None,
) -> tuple[TextToken, ...]:
    """Tokens of one row's text segment, unknown ones where no encoder ran for this side of guidance.

    Args:
        pipe: Pipeline, for its tokenizers.
        parts: What `text_parts` said.
        prompts: What the encoders were given.
        length: Positions of the text segment.
        branch: Side of guidance of the row.
        unit: Which image of the batch the row is.
        units: How many images are made at once; those of one prompt stand next to each other.
        taken: Of the family.
    """
    tokens = [_UNKNOWN] * length
    if prompts is None:
        return tuple(tokens)
    for part in parts:
        columns = []
        for encoder in part.encoders:
            captured = prompts.captured(encoder, branch)
            if captured is not None and len(captured.ids):
                prompt = min(unit // max(1, units // len(captured.ids)), len(captured.ids) - 1)
                column = _encoder_tokens(pipe, encoder, captured, prompt)
                if taken == "last":
                    column = column[part.start - part.stop :]
                elif taken is not None:
                    places = taken(pipe, captured, prompt, length)
                    behind = length - len(places)
                    column = [*(column[place] for place in places), *[_padding(encoder)] * behind]
                columns.append(column)
        for offset in range(part.stop - part.start):
            here = [column[offset] for column in columns if offset < len(column)]
            if here:
                tokens[part.start + offset] = _merge(here)
    return tuple(tokens)


def _padding(encoder: str) -> TextToken:
    """A position that no token stands behind: zeros, or a vector that the denoiser learned."""
    return TextToken(None, "pad", encoder)


def _encoder_tokens(pipe: Any, encoder: str, captured: Captured, prompt: int) -> list[TextToken]:
    tokenizer: Any = getattr(pipe, encoder.replace("text_encoder", "tokenizer"), None)
    if not hasattr(tokenizer, "convert_ids_to_tokens"):  # some have a processor, of words and pictures
        processor = tokenizer or getattr(pipe, encoder.replace("text_encoder", "processor"), None)
        tokenizer = getattr(processor, "tokenizer", processor)
    ids = [int(i) for i in captured.ids[prompt]]
    mask = None if captured.mask is None else [bool(keep) for keep in captured.mask[prompt]]
    texts = captured.texts[prompt] if captured.texts else ()
    strings: list[str | None] = [None] * len(ids)
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        inside = "##" if type(tokenizer).__name__.startswith("Bert") else ""  # a piece within a word
        strings = [
            None if piece is None else piece_text(str(piece).removeprefix(inside))
            for piece in tokenizer.convert_ids_to_tokens(ids)
        ]
    return [
        TextToken(text, role, encoder)
        for text, role in zip(strings, text_roles(tokenizer, ids, mask, texts), strict=True)
    ]


def piece_text(piece: Any) -> str | None:
    """A token's string without the marks of word boundaries."""
    # A piece that is nothing but a word-boundary mark keeps it.
    return None if piece is None else str(piece).replace("</w>", "").strip("▁Ġ") or str(piece)


def _merge(here: Sequence[TextToken]) -> TextToken:
    """One token for a position several encoders share. A role other than padding wins: the position carries
    content."""
    strings = list(dict.fromkeys(token.text for token in here if token.text is not None))
    role = next((token.role for token in here if token.role != "pad"), here[0].role)
    return TextToken(
        " / ".join(strings) if strings else None, role, "+".join(str(token.encoder) for token in here)
    )
