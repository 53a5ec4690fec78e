"""Tokenizers for the embedded model: CLIP's byte-level BPE and T5's Unigram, trained on the prompt grammar.

Every word of the grammar is one token; any other text falls back to letters (CLIP) or letters and `<unk>`
(T5), as with the released tokenizers. Padding follows SD3: CLIP-L pads with its end token, CLIP-G with "!"
(id 0), T5 with `<pad>`.
"""

from __future__ import annotations

import string

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from sinkscope.shapes.grammar import TASKS, every

CLIP_LENGTH = 16
T5_LENGTH = 16
_START, _END = "<|startoftext|>", "<|endoftext|>"


def corpus() -> list[str]:
    """Return every word of the grammar, repeated, in a fixed order."""
    words = sorted({word for task in TASKS for caption in every(task) for word in caption.text.split()})
    return words * 50


def clip_tokenizer(*, pad: str = _END) -> CLIPTokenizer:
    """Return a CLIP tokenizer; `pad` is "<|endoftext|>" as in CLIP-L or "!" as in SD3's CLIP-G."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=None))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=4096, end_of_word_suffix="</w>", show_progress=False, min_frequency=1
    )
    trained.train_from_iterator(corpus(), trainer)
    merges = [tuple(pair) for pair in _merges(trained)]
    letters = ["!"] + sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"!"})
    vocab = {token: i for i, token in enumerate(letters + [f"{letter}</w>" for letter in letters])}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    for token in (_START, _END):
        vocab[token] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=CLIP_LENGTH)


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    import json

    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair if isinstance(pair, list) else pair.split(" ") for pair in found]


def t5_tokenizer() -> T5Tokenizer:
    """Return a T5 tokenizer: ids <pad> 0, </s> 1, <unk> 2, then the grammar's words and single letters."""
    words = sorted(set(corpus()))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -2.0) for word in words if len(word) > 1 or word == "a"]
    known = {piece for piece, _ in pieces}
    singles = ["▁", *string.ascii_letters, *string.digits, *".,!?'-"]
    pieces += [(piece, -10.0) for piece in singles if piece not in known]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)
