"""Language models, and everything else of transformers: what its models read they say themselves."""

from __future__ import annotations

from ._family import Family

READ_OFF = Family(
    stacks=(),
    kinds=(("*head.attention", "cross"), ("*pooler.attention", "cross"), ("*attn_pool", "cross")),
)
"""A model whose parts, blocks and learned tokens are read off its modules."""

LANGUAGE: dict[str, Family] = {"PreTrainedModel": READ_OFF}
