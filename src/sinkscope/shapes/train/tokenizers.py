"""Tokenizers for the embedded model: CLIP's byte-level BPE and T5's Unigram, made from the prompt grammar.

Every word of the grammar is one token; any other text falls back to letters (CLIP) or letters and `<unk>`
(T5), as with the released tokenizers. Padding follows SD3: CLIP-L pads with its end token, CLIP-G with "!"
(id 0), T5 with `<pad>`.
"""

from __future__ import annotations

import string
from collections import Counter
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5Tokenizer

from sinkscope.shapes.grammar import TASKS, every

CLIP_LENGTH = 16
T5_LENGTH = 16
_START, _END, _SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"


def words() -> list[str]:
    """Return every word of the grammar, sorted."""
    return sorted({word for task in TASKS for caption in every(task) for word in caption.text.split()})


def clip_tokenizer(*, pad: str = _END) -> CLIPTokenizer:
    """Return a CLIP tokenizer; `pad` is "<|endoftext|>" as in CLIP-L or "!" as in SD3's CLIP-G."""
    merges = learn_merges(words())
    letters = ["!"] + sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"!"})
    vocab = {token: i for i, token in enumerate(letters + [f"{letter}{_SUFFIX}" for letter in letters])}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    for token in (_START, _END):
        vocab[token] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=CLIP_LENGTH)


def learn_merges(corpus: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding of equally frequent lower-case ASCII words until every word is one token.

    The trainer of `tokenizers` breaks ties by the order of a hash table, so two processes would number tokens
    differently and captions tokenised in one would be misread in the other. Here the pair of the most words
    comes first, and of several the one whose parts are older: letters, letters that end a word, then merged
    tokens.
    """
    parts = {word: [*word[:-1], word[-1] + _SUFFIX] for word in corpus}
    letters = sorted({part for split in parts.values() for part in split})
    age = {part: i for i, part in enumerate(sorted(letters, key=lambda part: (len(part), part)))}
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for split in parts.values() for pair in pairwise(split)):
        left, right = min(counts, key=lambda pair: (-counts[pair], age[pair[0]], age[pair[1]]))
        merges.append((left, right))
        age.setdefault(left + right, len(age))
        parts = {word: _merge(split, left, right) for word, split in parts.items()}
    return merges


def _merge(split: list[str], left: str, right: str) -> list[str]:
    merged: list[str] = []
    for part in split:
        if part == right and merged and merged[-1] == left:
            merged[-1] += right
        else:
            merged.append(part)
    return merged


def t5_tokenizer() -> T5Tokenizer:
    """Return a T5 tokenizer: ids <pad> 0, </s> 1, <unk> 2, then the grammar's words and single letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -2.0) for word in words() if len(word) > 1 or word == "a"]
    known = {piece for piece, _ in pieces}
    singles = ["▁", *string.ascii_letters, *string.digits, *".,!?'-"]
    pieces += [(piece, -10.0) for piece in singles if piece not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)
