"""HPS v2 and v2.1: a CLIP ViT-H/14 of open_clip below the key "state_dict" (xswu/HPSv2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ._common import Part, load_pickle, take, tokenizer_files, write_folder
from ._open_clip import config_of, rename

HEADS = 16
"""Of both towers of ViT-H/14; the one size that its tensors do not tell."""


def convert(sources: Sequence[Path], target: Path, *, tokenizer: str, version: str) -> None:
    """Write `target` from the released file; `tokenizer` is a folder or hub id."""
    files = tokenizer_files(tokenizer)
    state = load_pickle(sources[0])
    for key in ("visual.conv1.weight", "visual.proj", "text_projection", "token_embedding.weight"):
        take(state, key, sources[0], "an HPS v2 checkpoint")
    config = config_of(state, vision_heads=HEADS, text_heads=HEADS, act="gelu")
    about = {"metric": "hps", "version": version}
    write_folder(target, {"": Part(rename(state), config)}, about, sources, files)
