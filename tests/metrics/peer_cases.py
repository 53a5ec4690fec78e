"""Small weights, images and prompts that both the original packages and ours are run on.

Everything comes from `RandomState`, whose streams NumPy keeps for ever, so only shapes and scores need
storing (`peers.json`, written by `benchmarks/verify/small.py` in the environment of the original packages).
"""

from __future__ import annotations

import json
import string
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FILE = Path(__file__).with_name("peers.json")
SIZES = [(64, 64), (97, 50), (41, 70)]
TEXTS = ["a red circle", "two green stars above one blue ring", "x" * 60]
CLIP_TOKENS = 16
MED = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "num_attention_heads": 12,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "vocab_size": 64,
    "add_cross_attention": True,
}


def pictures(seed: int = 0) -> list[Image.Image]:
    """Blocks of random colour, so that every resize has something to do."""
    out = []
    for index, (width, height) in enumerate(SIZES):
        draw = np.random.RandomState(seed + index)
        blocks = draw.randint(0, 256, (height // 5 + 1, width // 5 + 1, 3)).astype(np.uint8)
        out.append(Image.fromarray(blocks.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]))
    return out


def fill(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """A tensor for each name, the same on every machine."""
    out = {}
    for name, shape in shapes.items():
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
        if name == "logit_scale":
            values = np.asarray(2.0)
        elif "lin" in name.split(".")[0]:
            values = np.abs(values)
        elif len(shape) > 1:
            values /= np.prod(shape[1:]) ** 0.5
        else:
            scale = any(word in name for word in ("ln_", "norm", "LayerNorm")) and name.endswith("weight")
            values = 0.1 * values + scale
        out[name] = torch.tensor(values, dtype=torch.float32)
    return out


def clip_tokenizer(folder: Path) -> Path:
    """A character-level CLIP tokenizer of 54 words."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [*string.ascii_lowercase, *(c + "</w>" for c in string.ascii_lowercase)]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": words[-1]}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", **special, "model_max_length": CLIP_TOKENS})
    )
    return folder


def bert_tokenizer(folder: Path) -> Path:
    """A character-level BERT tokenizer of 57 words."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    return folder
