"""Roles of prompt tokens: begin mark, the user's words, end mark, padding, and what a template put around
them.

A template (a chat template, a system prompt, an instruction) is everything that was encoded with the prompt
but is not spelled by it. It is found by looking for the prompt's own text in the tokens: what stands before
and behind it is template, except a begin mark, the first end mark behind the text, and padding. Where the
text cannot be found (a pipeline rewrote it) nothing is called template but special marks, and the words
beside such marks have no role, since nobody knows which of them the user wrote.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ._call import Role

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_LEAST = 8
"""Characters that the cut-off beginning of a prompt must share with the last tokens to be recognised."""


class Marks(NamedTuple):
    """Ids with a meaning of their own; None where the tokenizer has no such mark."""

    bos: int | None
    eos: int | None
    pad: int | None
    others: frozenset[int]
    """Further special ids: turns, system marks, ..."""

    @classmethod
    def of(cls, tokenizer: Any) -> Marks:
        """The marks of a tokenizer."""
        names = ("bos", "eos", "pad", "unk", "cls", "sep")
        bos, eos, pad, unk, begin, end = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
        # BERT begins and ends a text with the marks it has for other purposes.
        bos, eos = begin if bos is None else bos, end if eos is None else eos
        special = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or ()}
        return cls(bos, eos, pad, frozenset(special - {bos, eos, pad, unk}))


class _Piece(NamedTuple):
    """Tokens that spell some characters together; several only where one character needs several tokens."""

    start: int
    stop: int
    text: str


def text_roles(
    tokenizer: Any, ids: Sequence[int], mask: Sequence[bool] | None, texts: Sequence[str] = ()
) -> list[Role | None]:
    """The role of each token of one encoded prompt.

    Args:
        tokenizer: What made the ids.
        ids: Token ids as the encoder was given them.
        mask: True where the encoder attends; None where it was given no mask.
        texts: What the user may have written here: the prompts and negative prompts of the same call.
    """
    marks = Marks.of(tokenizer)
    real = [True] * len(ids) if mask is None else list(mask)
    plain = _plain(marks, ids, real)
    wanted = sorted({_normal(text) for text in texts}, key=len, reverse=True)
    words = [i for i, role in enumerate(plain) if role == "content"]
    said = _normal(_decode(tokenizer, [ids[i] for i in words]))
    # No word may also mean that all of them stand behind a mark that looks like the end.
    if not texts or (said in wanted and (said or wanted == [""])):
        return plain if texts or not _marked(marks, ids, real) else _unknown_words(marks, ids, real, plain)
    if wanted == [""]:
        return _around(marks, ids, real, None)
    span = _locate(tokenizer, marks, ids, real, wanted)
    if span is not None:
        return _around(marks, ids, real, span)
    return _unknown_words(marks, ids, real, plain) if _marked(marks, ids, real) else plain


def _plain(marks: Marks, ids: Sequence[int], real: Sequence[bool]) -> list[Role | None]:
    """Roles without a template: one begin mark, words, the first end mark, padding."""
    roles: list[Role | None] = []
    ended, lead = False, _lead(marks, ids)
    for position, token in enumerate(ids):
        if ended or not real[position] or position < lead:
            roles.append("pad")
        elif token == marks.bos and "content" not in roles and "bos" not in roles:
            roles.append("bos")
        elif token == marks.eos:
            roles.append("eos")
            ended = True
        elif token == marks.pad and (marks.eos not in ids or "content" not in roles):
            roles.append("pad")
        else:
            roles.append("content")
    return roles


def _around(
    marks: Marks, ids: Sequence[int], real: Sequence[bool], span: tuple[int, int] | None
) -> list[Role | None]:
    """Roles around the user's words at `span`; None: the user wrote nothing, so every word is template."""
    padding = _padding(marks, ids, real)
    start, stop = (_only_end(marks, ids, padding),) * 2 if span is None else span
    roles: list[Role | None] = []
    for position, token in enumerate(ids):
        if start <= position < stop:
            roles.append("content")
        elif not real[position]:
            roles.append("pad")
        elif position < start:
            first = all(role == "pad" for role in roles)
            role: Role = "bos" if first and token == marks.bos else "template"
            unused = position >= padding or (first and token == marks.pad)
            roles.append("pad" if unused and role != "bos" else role)
        elif token == marks.eos and "eos" not in roles:
            roles.append("eos")
        else:
            roles.append("pad" if position >= padding else "template")
    return roles


def _unknown_words(
    marks: Marks, ids: Sequence[int], real: Sequence[bool], plain: Sequence[Role | None]
) -> list[Role | None]:
    """Roles where marks show a template but not which words are the user's."""
    padding = _padding(marks, ids, real)
    end = _only_end(marks, ids, padding)
    roles: list[Role | None] = []
    for position, token in enumerate(ids):
        if not real[position] or position >= padding:
            roles.append("pad")
        elif plain[position] == "bos":
            roles.append("bos")
        elif token == marks.eos:
            roles.append("eos" if position == end else "template")
        else:
            roles.append("template" if token in marks.others else None)
    return roles


def _padding(marks: Marks, ids: Sequence[int], real: Sequence[bool]) -> int:
    """Where the last run of padding starts: masked tokens, padding ids, and end marks behind an end mark."""
    position = len(ids)
    while position and (not real[position - 1] or ids[position - 1] in (marks.pad, marks.eos)):
        position -= 1
    ended = position < len(ids) and real[position] and ids[position] == marks.eos
    return position + ended


def _lead(marks: Marks, ids: Sequence[int]) -> int:
    """Length of a run of padding in front that consists of end marks; 0 where the two marks differ."""
    if marks.pad is None or marks.pad != marks.eos:
        return 0
    return next((position for position, token in enumerate(ids) if token != marks.pad), 0)


def _only_end(marks: Marks, ids: Sequence[int], padding: int) -> int:
    """The end mark where there is exactly one before the padding, else the length."""
    lead = _lead(marks, ids)
    ends = [i for i in range(lead, padding) if ids[i] == marks.eos and marks.eos is not None]
    return ends[0] if len(ends) == 1 else len(ids)


def _marked(marks: Marks, ids: Sequence[int], real: Sequence[bool]) -> bool:
    return any(keep and token in marks.others for token, keep in zip(ids, real, strict=True))


def _locate(
    tokenizer: Any, marks: Marks, ids: Sequence[int], real: Sequence[bool], wanted: Sequence[str]
) -> tuple[int, int] | None:
    """Tokens that spell the longest of the wanted texts, the last ones that do."""
    pieces = list(_pieces(tokenizer, ids, real, _padding(marks, ids, real)))
    whole = "".join(piece.text for piece in pieces)
    for text in wanted:
        if text and (found := _occurrence(marks, ids, pieces, whole, text)):
            return found
    full = not pieces or pieces[-1].stop >= len(ids) - 1
    for text in wanted if full else ():
        for start in range(max(0, len(whole) - len(text) + 1), len(whole) - _LEAST + 1):
            span = _touched(pieces, start, len(whole))
            if text.startswith(whole[start:]) and span.aligned:
                return span.start, span.stop
    return None


class _Touched(NamedTuple):
    start: int
    stop: int
    aligned: bool


def _touched(pieces: Sequence[_Piece], first: int, last: int) -> _Touched:
    """Tokens that spell the characters first..last, and whether they spell nothing else."""
    place, inside, aligned = 0, [], [False, False]
    for piece in pieces:
        begin, place = place, place + len(piece.text)
        if piece.text and begin < last and place > first:
            inside.append(piece)
            aligned = [aligned[0] or begin == first, aligned[1] or place == last]
    return _Touched(inside[0].start, inside[-1].stop, all(aligned))


def _occurrence(
    marks: Marks, ids: Sequence[int], pieces: Sequence[_Piece], whole: str, text: str
) -> tuple[int, int] | None:
    """Where a text stands: by whole tokens if possible, before an end mark if possible, and then
    the last place."""
    places = [i for i in range(len(whole)) if whole.startswith(text, i)]
    spans = [_touched(pieces, place, place + len(text)) for place in places]
    exact = [span for span in spans if span.aligned]
    if not exact:
        return (spans[0].start, spans[0].stop) if len(spans) == 1 else None
    closed = [span for span in exact if span.stop < len(ids) and ids[span.stop] == marks.eos]
    best = (closed or exact)[-1]
    return best.start, best.stop


def _pieces(tokenizer: Any, ids: Sequence[int], real: Sequence[bool], stop: int) -> Iterator[_Piece]:
    """The characters of each real token before `stop`, without blanks, in one case."""
    known: dict[int, str] = {}
    position = 0
    while position < stop:
        end = position + 1
        token = ids[position]
        if token not in known:
            known[token] = _decode(tokenizer, [token])
        text = known[token]
        if _BROKEN in text:
            while end < stop and _BROKEN in _decode(tokenizer, [ids[end]]):
                end += 1
            text = _decode(tokenizer, ids[position:end])
        if real[position]:
            yield _Piece(position, end, _normal(text))
        position = end


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    if hasattr(tokenizer, "decode"):
        return str(tokenizer.decode(list(ids)))
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        return ""
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    return "".join(str(piece).replace("</w>", "").strip("▁Ġ") for piece in pieces if piece is not None)


def _normal(text: str) -> str:
    """Text without what tokenizers change: blanks, case, compatible characters."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
