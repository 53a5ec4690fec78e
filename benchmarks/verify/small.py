"""Write `tests/metrics/peers.json`: the original packages' scores on small weights.

    PYTHONPATH=.:benchmarks/verify ENV/bin/python benchmarks/verify/small.py

Runs in the environment of `make_env.sh`. The classes are the packages' own; only their sizes are small.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import cosines, stand_ins
from tests.metrics.peer_cases import (
    CLIP_TOKENS,
    FILE,
    MED,
    TEXTS,
    bert_tokenizer,
    clip_tokenizer,
    fill,
    pictures,
)

Result = dict[str, Any]


def filled(model: torch.nn.Module, names: Any = None) -> dict[str, list[int]]:
    shapes = {
        name: list(value.shape) for name, value in model.state_dict().items() if value.is_floating_point()
    }
    shapes = {name: shape for name, shape in shapes.items() if names is None or names(name)}
    model.load_state_dict(fill(shapes), strict=False)
    model.eval()
    return shapes


def lpips(net: str) -> Result:
    package = importlib.import_module("lpips")
    model = package.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    old = {name: value.shape for name, value in model.state_dict().items()}

    def released(name: str) -> str:
        parts = name.split(".")
        return f"features.{parts[2]}.{parts[3]}" if parts[0] == "net" else name

    wanted = {
        n: released(n) for n in old if n.startswith("net.slice") or n.startswith("lin") and "lins" not in n
    }
    shapes = {new: list(old[name]) for name, new in wanted.items()}
    weights = fill(shapes)
    model.load_state_dict({name: weights[new] for name, new in wanted.items()}, strict=False)
    pairs = zip(pictures(), pictures(seed=10), strict=True)
    scores = [float(model(*(package.im2tensor(np.asarray(x)) for x in pair))) for pair in pairs]
    return {"shapes": shapes, "scores": scores}


def token_ids(tokenizer: Any, length: int) -> Any:
    return tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")


def clip(work: Path) -> Result:
    package = importlib.import_module("clip.clip")
    model = importlib.import_module("clip.model").CLIP(16, 32, 2, 64, 8, CLIP_TOKENS, 54, 64, 2, 2)
    shapes = filled(model)
    prepare = package._transform(32)
    words = token_ids(
        importlib.import_module("transformers").CLIPTokenizer.from_pretrained(work), CLIP_TOKENS
    )
    with torch.inference_mode():
        images = torch.stack([prepare(picture) for picture in pictures()])
        return {
            "shapes": shapes,
            "scores": cosines(model.encode_image(images), model.encode_text(words["input_ids"])),
        }


def hps(work: Path) -> Result:
    package = importlib.import_module("hpsv2.src.open_clip.model")
    transform = importlib.import_module("hpsv2.src.open_clip.transform")
    real = importlib.import_module("torchvision.transforms.functional")
    transform.F = types.SimpleNamespace(
        pad=real.pad, resize=lambda image, size, mode: real.resize(image, size, mode, antialias=True)
    )
    vision = package.CLIPVisionCfg(layers=2, width=32, head_width=2, patch_size=14, image_size=28)
    text = package.CLIPTextCfg(context_length=CLIP_TOKENS, vocab_size=54, width=32, heads=16, layers=2)
    model = package.CLIP(16, vision, text, output_dict=True)
    shapes = filled(model, lambda name: name != "attn_mask")
    prepare = transform.image_transform(28, False, resize_longest_max=True)
    words = token_ids(
        importlib.import_module("transformers").CLIPTokenizer.from_pretrained(work), CLIP_TOKENS
    )
    with torch.inference_mode():
        out = model(torch.stack([prepare(picture) for picture in pictures()]), words["input_ids"])
    return {"shapes": shapes, "scores": (out["image_features"] * out["text_features"]).sum(-1).tolist()}


def imagereward(work: Path) -> Result:
    root = Path(importlib.util.find_spec("ImageReward").submodule_search_locations[0])
    for name in ("ImageReward", "ImageReward.models"):
        stub = types.ModuleType(name)
        stub.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = stub
    pretrain = importlib.import_module("ImageReward.models.BLIP.blip_pretrain")
    vit = importlib.import_module("ImageReward.models.BLIP.vit").VisionTransformer
    blip = importlib.import_module("ImageReward.models.BLIP.blip")
    real = blip.BertTokenizer.from_pretrained
    blip.BertTokenizer.from_pretrained = lambda name: real(str(work))
    pretrain.create_vit = lambda *_: (
        vit(img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2),
        128,
    )
    (work / "med.json").write_text(json.dumps(MED))
    package = importlib.import_module("ImageReward.ImageReward")
    model = package.ImageReward(str(work / "med.json"))
    model.preprocess = package._transform(32)
    shapes = filled(model)
    scores = [model.score(text, image) for text, image in zip(TEXTS, pictures(), strict=True)]
    return {"shapes": shapes, "scores": scores}


def main() -> None:
    stand_ins()
    with tempfile.TemporaryDirectory() as folder:
        words = clip_tokenizer(Path(folder) / "clip")
        found = {
            "lpips-alex": lpips("alex"),
            "lpips-vgg": lpips("vgg"),
            "clip": clip(words),
            "hps": hps(words),
            "imagereward": imagereward(bert_tokenizer(Path(folder) / "bert")),
        }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(result)}" for name, result in found.items())
    FILE.write_text("{\n" + lines + "\n}\n")
    for name, result in found.items():
        print(name, result["scores"])


if __name__ == "__main__":
    main()
