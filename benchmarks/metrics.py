"""What a metric costs beyond its network: `python benchmarks/metrics.py`.

Compares `metric.score` on images and prompts (resizing, tokenising, checks and all) with the bare forward
pass of the same network on ready tensors in batches of the same size. Random weights; medians, interleaved,
so that a busy machine slows both alike. The aim is 1.2 or less.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tests.metrics.helpers import random_lpips
from tests.metrics.peer_cases import MED, bert_tokenizer, clip_tokenizer, fill

from sinkscope import metrics
from sinkscope.metrics import _lpips_net
from sinkscope.metrics.convert import convert

REPEATS, BATCH, SIDE = 5, 8, 512


class Text(NamedTuple):
    text: str
    task: str = "all"
    metadata: dict[str, Any] = {}


def pictures(seed: int = 0) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(BATCH)]


def clip_b32(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    clip_tokenizer(folder)
    text = {"vocab_size": 54, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    CLIPModel(CLIPConfig(text_config=text)).save_pretrained(folder)
    return folder


def clip_case(folder: Path) -> tuple[Any, Callable[[], Any]]:
    metric = metrics.get("clip_t", checkpoint=clip_b32(folder), batch=BATCH)
    model, text = metric._model(), metric._text()
    values = torch.randn(BATCH, 3, 224, 224)
    ids = torch.full((BATCH, text.tokens), 53)

    def bare() -> Any:
        return model.get_image_features(pixel_values=values), model.get_text_features(input_ids=ids)

    return metric, bare


def imagereward_case(folder: Path) -> tuple[Any, Callable[[], Any]]:
    """Width of BLIP base, four layers each."""
    width, layers = 768, 4
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width), "pos_embed": (1, 197, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16)}
    shapes |= {"patch_embed.proj.bias": (width,), "norm.weight": (width,), "norm.bias": (width,)}
    for index in range(layers):
        sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
        for name, shape in sizes.items():
            shapes |= {f"blocks.{index}.{name}.weight": shape, f"blocks.{index}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{index}.{name}.{part}": (width,) for part in ("weight", "bias")}
    from transformers import BlipTextConfig, BlipTextModel

    med = MED | {"num_hidden_layers": layers, "intermediate_size": 3072, "encoder_hidden_size": width}
    reader = BlipTextModel(BlipTextConfig(**med, is_decoder=True), add_pooling_layer=False).state_dict()
    chain = [768, 1024, 128, 64, 16, 1]
    head = {
        f"mlp.layers.{place}.{part}": (after, before) if part == "weight" else (after,)
        for place, before, after in zip((0, 2, 4, 6, 7), chain, chain[1:], strict=False)
        for part in ("weight", "bias")
    }
    state = fill({f"blip.visual_encoder.{name}": shape for name, shape in shapes.items()} | head)
    state |= {f"blip.text_encoder.{name}": value for name, value in reader.items()}
    sources = [folder / "i.pt", folder / "med.json"]
    torch.save(state, sources[0])
    sources[1].write_text(json.dumps(med))
    convert("imagereward", sources, folder / "made", tokenizer=str(bert_tokenizer(folder / "w")))
    metric = metrics.get("imagereward", checkpoint=folder / "made", batch=BATCH)
    loaded = metric._load()
    values, ids = torch.randn(BATCH, 3, 224, 224), torch.full((BATCH, 35), 5)

    def bare() -> Any:
        seen = loaded.vision(pixel_values=values).last_hidden_state
        return loaded.text(input_ids=ids, encoder_hidden_states=seen, is_decoder=False)

    return metric, bare


def lpips_case(folder: Path) -> tuple[Any, Callable[[], Any]]:
    metric = metrics.get("lpips", checkpoint=random_lpips(folder), batch=BATCH)
    weights = metric._load()
    a, b = torch.rand(2, BATCH, 3, SIDE, SIDE) * 2 - 1
    return metric, lambda: _lpips_net.distance(a, b, "alex", weights)


CASES = {
    "clip_t, ViT-B/32": clip_case,
    "imagereward, 4 layers of BLIP base": imagereward_case,
    "lpips, AlexNet": lpips_case,
}


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main(names: list[str]) -> None:
    images, others = pictures(), pictures(1)
    print(f"batch {BATCH}, {SIDE} x {SIDE} pixels, {torch.get_num_threads()} threads, medians of {REPEATS}")
    for name, build in CASES.items():
        if names and not any(word in name for word in names):
            continue
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            metric, bare = build(Path(folder))
            reference = others if "reference" in metric.needs else None
            times: dict[str, list[float]] = {"bare": [], "ours": []}
            for repeat in range(REPEATS + 1):
                # New prompts each time: text features are kept, and that would flatter us.
                prompts = [Text(f"{'abcdefgh'[repeat]} photo of {'abcdefgh'[i]}") for i in range(BATCH)]
                times["bare"].append(seconds(bare))
                times["ours"].append(seconds(partial(metric.score, images, prompts, reference)))
            medians = {way: statistics.median(found[1:]) for way, found in times.items()}
            ratio = medians["ours"] / medians["bare"]
            print(f"{ratio:6.2f} x  {name} (bare {medians['bare'] / BATCH:.3f} s per image)", flush=True)
            metrics.release()


if __name__ == "__main__":
    main(sys.argv[1:])
