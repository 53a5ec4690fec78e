"""Token ids are part of the trained weights: they must not depend on the process that makes the tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from sinkscope import shapes
from sinkscope.shapes.train.tokenizers import clip_tokenizer, learn_merges, words


@pytest.mark.parametrize(("folder", "pad"), [("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")])
def test_the_shipped_ids_are_the_ones_the_trainer_makes(folder: str, pad: str) -> None:
    shipped = CLIPTokenizer.from_pretrained(shapes.folder() / folder, local_files_only=True)
    made = clip_tokenizer(pad=pad)
    assert shipped.get_vocab() == made.get_vocab()
    assert shipped.pad_token == made.pad_token == pad
    for word in words():
        assert made.tokenize(word) == [f"{word}</w>"]


@given(st.sets(st.text("abcde", min_size=1, max_size=6), min_size=1, max_size=12))
def test_merges_make_every_word_one_token_in_any_order(corpus: set[str]) -> None:
    merges = learn_merges(sorted(corpus))
    assert learn_merges(sorted(corpus, reverse=True)) == merges
    for word in corpus:
        parts = [*word[:-1], word[-1] + "</w>"]
        for left, right in merges:
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == (left, right):
                    parts[at : at + 2] = [left + right]
                at += 1
        assert parts == [f"{word}</w>"]
