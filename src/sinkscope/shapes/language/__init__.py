"""The embedded language models: one that reads from the left, one that uncovers masked words.

`AutoregressiveReader(model, tokenizer)` makes a reader of any causal language model of transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinkscope.shapes.language._pipeline import AutoregressiveReader, MaskedDiffusionReader

__all__ = ["AutoregressiveReader", "MaskedDiffusionReader"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sinkscope.shapes.language import _pipeline

    return getattr(_pipeline, name)
