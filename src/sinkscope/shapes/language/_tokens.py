"""One token per word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sinkscope.errors import UsageError
from sinkscope.shapes.language.stories import vocabulary

BEGIN, MASK, UNKNOWN = "<bos>", "<mask>", "<unk>"


def build_tokenizer() -> Any:
    """A tokenizer of transformers over the words of the stories; every text begins with `<bos>`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate([BEGIN, MASK, UNKNOWN, *vocabulary()])}
    words = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, ids[BEGIN])])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=BEGIN, mask_token=MASK, unk_token=UNKNOWN, model_max_length=256
    )


def encode(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Token ids `[text, token]`.

    Raises:
        UsageError: No text, a word the model does not know, or texts of different lengths.
    """
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError(f"Got {list(texts)!r}: expected one text or several, none of them empty.")
    rows = [list(map(int, tokenizer(text)["input_ids"])) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if tokenizer.unk_token == UNKNOWN and tokenizer.unk_token_id in row and MASK in tokenizer.get_vocab():
            known = set(vocabulary())
            strange = next((word for word in text.split() if word not in known), UNKNOWN)
            raise UsageError(
                f"The embedded language models do not know the word {strange!r}. They know {len(known)} "
                "words of stories about shapes (sinkscope.shapes.language.stories.vocabulary), separated by "
                "blanks; '.' and '?' are words."
            )
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise UsageError(
            f"The texts of one batch have {lengths[0] - 1} to {lengths[-1] - 1} words: expected the same "
            "number, because padding would take part in the attention. Cut them to one length, or set "
            "batch=1."
        )
    return torch.tensor(rows)
