"""Configurations, tokenizers and models of transformers from a local folder, strictly: a tensor that is not
in the file is an error, never a random number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sinkscope.errors import MissingDependencyError, UsageError

from ._batches import out_of_memory
from ._weights import AbsentWeightsError

_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
"""What transformers raises for a folder that does not fit, by file."""


def load_config(folder: Path) -> Any:
    """Read `config.json` of a folder."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except _BROKEN as error:
        raise UsageError(
            f"{folder / 'config.json'} is no configuration of a model that transformers knows "
            f"({_first(error)}). Name the folder of a transformers checkpoint."
        ) from error


def load_tokenizer(folder: Path, *, metric: str) -> Any:
    """Read the tokenizer of a folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise MissingDependencyError(
            f"The tokenizer in {folder} needs a further package ({_first(error)}). "
            'Install it: pip install "sinkscope[hub]"'
        ) from error
    except _BROKEN as error:
        raise AbsentWeightsError(
            f"Metric {metric!r} has no tokenizer in {folder} ({_first(error)}).",
            "Fetch the checkpoint's tokenizer files (tokenizer.json, or vocab.json and merges.txt) into it.",
        ) from error


def load_model(
    folder: Path,
    *,
    metric: str,
    dtype: torch.dtype,
    model_class: Any = None,
    unused: tuple[str, ...] = (),
    **settings: Any,
) -> Any:
    """Read a model, in evaluation mode, with every one of its tensors taken from the folder's safetensors.

    Args:
        folder: With `config.json` and `model*.safetensors`.
        metric: For messages.
        dtype: The model's; a half-precision file would otherwise give a half-precision model.
        model_class: None finds the class by the configuration.
        unused: Parts of names of tensors that the forward pass never reads; these alone may be missing.
        **settings: For `from_pretrained`.

    Raises:
        UsageError: The weights are of another architecture than the configuration.
    """
    from transformers import AutoModel

    try:
        model, found = (model_class or AutoModel).from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            dtype=dtype,
            output_loading_info=True,
            **settings,
        )
    except _BROKEN as error:
        if out_of_memory(error):
            raise
        raise UsageError(
            f"Metric {metric!r}: the weights in {folder} cannot be loaded ({_first(error)}). Name a "
            "folder whose "
            "config.json and model.safetensors belong together, or fetch it again."
        ) from error
    missing = [key for key in found["missing_keys"] if not any(part in key for part in unused)]
    absent = sorted(missing) + sorted(str(key[0]) for key in found["mismatched_keys"])
    if absent:
        raise UsageError(
            f"Metric {metric!r}: the weights in {folder} are of another architecture than its config.json: "
            f"{len(absent)} tensors are missing or of another shape, the first {absent[0]!r}. Name the right "
            "folder, or fetch it again."
        )
    return model.to(dtype).eval()


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
