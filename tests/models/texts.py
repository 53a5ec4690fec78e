"""Tokenizers and runs that the tests of language models share."""

from __future__ import annotations

from typing import Any

import torch
from tests.zoo.language import BOS, EOS, MASK, PAD, WORDS, ids
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sinkscope.models import AttentionCall, Session


class Numbers:
    """Spells every token as its id."""

    bos_token_id, eos_token_id, pad_token_id, mask_token_id, unk_token_id = BOS, EOS, PAD, MASK, None
    all_special_ids = (BOS, EOS, PAD, MASK, 59)

    def convert_ids_to_tokens(self, given: list[int]) -> list[str]:
        return [str(token) for token in given]


def words() -> PreTrainedTokenizerFast:
    """A real tokenizer with one word per id."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    names = ["<bos>", "<eos>", "<pad>", "<mask>", *(f"w{number}" for number in range(4, WORDS))]
    built = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    built.pre_tokenizer = WhitespaceSplit()
    marks = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=built, **marks)


def logits(model: Any, **given: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(use_cache=False, **({"input_ids": ids()} | given)).logits
    return found


def generate(model: Any, **options: Any) -> Tensor:
    given = {"input_ids": ids(), "max_new_tokens": 3, "do_sample": False, "pad_token_id": PAD, **options}
    given.setdefault("attention_mask", torch.ones_like(given["input_ids"]))
    # Random models end when they like; these go on unless a test says otherwise.
    return model.generate(**given, **({} if "min_new_tokens" in given else {"min_new_tokens": 3}))


def record(model: Any, run: Any, **options: Any) -> list[AttentionCall]:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, issue: Any) -> Tensor:
        calls.append(call)
        return issue(call)

    with Session(model, handler, **options):
        run()
    return calls
