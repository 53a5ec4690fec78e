"""Compare our metrics with what `peers.py` got: `.venv/bin/python benchmarks/verify/agree.py WORK [NAME]`.

Every checkpoint goes through `sinkscope convert`, as a released file would, and every score comes from the
metric itself. Prints a table and exits with 1 where a score differs by more than 1e-5.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from sinkscope import metrics
from sinkscope.metrics.convert import _common, _open_clip, convert

LIMIT = 1e-5


class Text(NamedTuple):
    text: str
    task: str = "all"
    metadata: dict[str, Any] = {}


def lpips(folder: Path, net: str) -> Any:
    convert(f"lpips-{net}", [folder / "backbone.pth", folder / "linear.pth"], folder / "made")
    return metrics.get("lpips", net=net, checkpoint=folder / "made")


def clip(folder: Path, heads: int, text_heads: int) -> Any:
    # The released OpenAI files are TorchScript; the hub has the same tensors for transformers. This map shows
    # that both architectures are one.
    state = _common.load_pickle(folder / "weights.pt")
    config = _open_clip.config_of(state, vision_heads=heads, text_heads=text_heads, act="quick_gelu")
    files = _common.tokenizer_files(str(folder.parent / "clip_tokenizer"))
    part = _common.Part(_open_clip.rename(state), config)
    _common.write_folder(folder / "made", {"": part}, {"metric": None}, [], files)
    return metrics.get("clip_t", checkpoint=folder / "made", batch=4)


def hps(folder: Path, antialias: bool) -> Any:
    source = folder.parent / "hps" / "HPS_v2.1_compressed.pt"
    target = folder.parent / "hps" / "made"
    if not target.exists():
        convert("hps", [source], target, tokenizer=str(folder.parent / "clip_tokenizer"))
    return metrics.get("hps", checkpoint=target, antialias=antialias, batch=2)


def imagereward(folder: Path) -> Any:
    sources = [folder / "ImageReward.pt", folder / "med_config.json"]
    convert("imagereward", sources, folder / "made", tokenizer=str(folder))
    return metrics.get("imagereward", checkpoint=folder / "made", batch=4)


class Case(NamedTuple):
    peer: str
    build: Callable[[Path], Any]
    square: bool = False


CASES = {
    "lpips_alex": Case("lpips 0.1.4, AlexNet", lambda folder: lpips(folder, "alex")),
    "lpips_vgg": Case("lpips 0.1.4, VGG-16", lambda folder: lpips(folder, "vgg")),
    "clip_b32": Case("clip (OpenAI), ViT-B/32", lambda folder: clip(folder, 12, 8)),
    "clip_l14": Case("open_clip 3.3.0, ViT-L/14 quickgelu", lambda folder: clip(folder, 16, 12)),
    "pickscore": Case(
        "authors' snippet, transformers 4.55.4", lambda f: metrics.get("pickscore", checkpoint=f), square=True
    ),
    "imagereward": Case("image-reward 1.5", imagereward),
    "hps": Case("hpsv2x 1.2.0, ViT-H/14, antialias", lambda folder: hps(folder, True)),
    "hps_no_antialias": Case("the same, torchvision 0.16 resizing", lambda folder: hps(folder, False)),
}


def main(work: Path, names: list[str]) -> int:
    prompts = [Text(text) for text in json.loads((work / "prompts.json").read_text())]
    images = [Image.open(work / f"{i}.png").convert("RGB") for i in range(len(prompts))]
    noisy = [Image.open(work / f"{i}-noisy.png").convert("RGB") for i in range(len(prompts))]
    worst = 0.0
    print("| metric | compared with | scores from | to | largest difference |")
    print("| --- | --- | --- | --- | --- |")
    for name in names or CASES:
        folder, case = work / name, CASES[name]
        shutil.rmtree(folder / "made", ignore_errors=True) if name != "hps_no_antialias" else None
        expected = np.array(json.loads((folder / "scores.json").read_text()))
        metric = case.build(folder)
        given = [image.resize((384, 384)) for image in images] if case.square else images
        found = metric.score(given, prompts, noisy if "reference" in metric.needs else None)
        difference = float(np.abs(found - expected).max())
        worst = max(worst, difference)
        span = f"{expected.min():.4f} | {expected.max():.4f}"
        print(f"| `{metric.name}` | {case.peer} | {span} | {difference:.1e} |", flush=True)
        metrics.release()
    print(f"\ntorch {torch.__version__}, random weights, {len(images)} images, one prompt is cut")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
