"""Older versions of the libraries: what they do not have is skipped, loudly, instead of failing the import.

`from diffusers import Flux2Pipeline` in a test file gives, where this version has no such class, a stand-in.
Whoever builds or calls it is skipped, with the name and the version as the reason (`pytest -rs` lists them).
The package itself never sees a stand-in: only files below `tests` do.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_LIBRARIES = ("diffusers", "transformers")


class _Missing(type):
    """Stands in for a class that this version does not have."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        pytest.skip(cls.__doc__ or cls.__name__)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.skip(cls.__doc__ or cls.__name__)


def _asked_by_a_test() -> bool:
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("importlib", "_frozen")):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_globals.get("__name__", "").startswith("tests.")


def stand_in_for_missing_classes() -> None:
    """Let test files import classes that are not there."""
    for name in _LIBRARIES:
        library: Any = importlib.import_module(name)
        kind = type(library)
        if kind is ModuleType or getattr(kind.__getattr__, "stands_in", False):
            continue
        kind.__getattr__ = _with_stand_ins(kind.__getattr__)


def _with_stand_ins(original: Any) -> Any:
    def look_up(module: ModuleType, name: str) -> Any:
        try:
            return original(module, name)
        except (AttributeError, ModuleNotFoundError):
            if not name[:1].isupper() or not _asked_by_a_test():
                raise
        library = importlib.import_module(module.__name__.partition(".")[0])
        reason = f"{library.__name__} {library.__version__} has no {name}"
        return _Missing(name, (), {"__doc__": reason})

    look_up.stands_in = True  # type: ignore[attr-defined]
    return look_up


# ---- tokenizers, which transformers 4 makes of files or of a backend


def clip_tokenizer(vocab: dict[str, int], **options: Any) -> Any:
    """A CLIP tokenizer without merges."""
    from transformers import CLIPTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        words, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        words.write_text(json.dumps(vocab), encoding="utf-8")
        merges.write_text("#version: 0.2\n", encoding="utf-8")
        return CLIPTokenizerFast(str(words), str(merges), **options)


def t5_tokenizer(vocab: list[tuple[str, float]], **options: Any) -> Any:
    """A T5 tokenizer of scored pieces, of which the third stands for the unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    backend = Tokenizer(models.Unigram(vocab, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=backend, extra_ids=0, **options)


def roberta_tokenizer(vocab: dict[str, int], **options: Any) -> Any:
    """RoBERTa tokenizer from files."""
    from transformers import RobertaTokenizer

    with tempfile.TemporaryDirectory() as folder:
        names, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        names.write_text(json.dumps(vocab), encoding="utf-8")
        merges.write_text("#version: 0.2\n", encoding="utf-8")
        return RobertaTokenizer(str(names), str(merges), **options)
