"""Run the original packages on random weights: `ENV/bin/python benchmarks/verify/peers.py WORK [NAME ...]`.

Runs in the environment of `make_env.sh`. Each package's own, unmodified architecture gets random weights,
which are saved in the layout of its released file beside the scores it gives. `agree.py` then converts those
files with sinkscope's converters and compares the scores.
"""

from __future__ import annotations

import gzip
import importlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

SIZES = [(512, 512), (640, 427), (333, 501), (224, 224)]
PROMPTS = [
    "a photo of a bench",
    "a photo of two toothbrushs and a purple wine glass",
    "A close-up of a Bear's paw, 35mm; it's 4:30pm (film grain) #nofilter",
    "a very long prompt " + "with many words about a red cube left of a blue sphere " * 12,
]


def pictures() -> list[Image.Image]:
    out = []
    for index, (width, height) in enumerate(SIZES):
        noise = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        out.append(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2 + 3 * index)))
    return out


def noisy(image: Image.Image) -> Image.Image:
    values = np.asarray(image) + np.random.default_rng(9).normal(scale=20, size=np.asarray(image).shape)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def lpips(folder: Path, net: str) -> list[float]:
    package = importlib.import_module("lpips")
    model = package.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    state = model.state_dict()
    backbone = {
        f"features.{name.split('.')[2]}.{name.split('.')[3]}": value
        for name, value in state.items()
        if name.startswith("net.slice")
    }
    # The released linear weights come with the package.
    linear = {name: value for name, value in state.items() if name.startswith("lin") and "lins" not in name}
    torch.save(backbone, folder / "backbone.pth")
    torch.save(linear, folder / "linear.pth")
    with torch.inference_mode():
        return [
            float(model(package.im2tensor(np.asarray(a)), package.im2tensor(np.asarray(noisy(a)))))
            for a in pictures()
        ]


def clip_tokenizer(folder: Path, vocabulary: Path) -> None:
    """The byte-pair vocabulary of `clip`, as the files of the Hugging Face tokenizer."""
    lines = gzip.open(vocabulary, "rt", encoding="utf-8").read().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    simple = importlib.import_module("clip.simple_tokenizer")
    characters = list(simple.bytes_to_unicode().values())
    words = characters + [c + "</w>" for c in characters] + ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "model_max_length": 77,
            }
        )
    )


def clip_b32(folder: Path) -> list[float]:
    """OpenAI's own package, ViT-B/32."""
    clip = importlib.import_module("clip.clip")
    model = importlib.import_module("clip.model").CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).eval()
    torch.save(model.state_dict(), folder / "weights.pt")
    prepare = clip._transform(224)
    with torch.inference_mode():
        images = torch.stack([prepare(picture) for picture in pictures()])
        text = clip.tokenize(PROMPTS, truncate=True)
        return cosines(model.encode_image(images), model.encode_text(text))


def clip_l14(folder: Path) -> list[float]:
    """open_clip, ViT-L/14 with OpenAI's activation."""
    package = importlib.import_module("open_clip")
    model, _, prepare = package.create_model_and_transforms("ViT-L-14-quickgelu")
    torch.save(model.eval().state_dict(), folder / "weights.pt")
    with torch.inference_mode():
        images = torch.stack([prepare(picture) for picture in pictures()])
        text = package.get_tokenizer("ViT-L-14")(PROMPTS)
        return cosines(model.encode_image(images), model.encode_text(text))


def hps(folder: Path, antialias: bool) -> list[float]:
    """The package's own open_clip, ViT-H/14. Its resizing follows torchvision: antialiased since 0.17."""
    factory = importlib.import_module("hpsv2.src.open_clip")
    transform = importlib.import_module("hpsv2.src.open_clip.transform")
    real = importlib.import_module("torchvision.transforms.functional")
    transform.F = types.SimpleNamespace(
        pad=real.pad, resize=lambda image, size, mode: real.resize(image, size, mode, antialias=antialias)
    )
    torch.manual_seed(0)
    model, _, prepare = factory.create_model_and_transforms(
        "ViT-H-14", None, precision="fp32", light_augmentation=True, output_dict=True, aug_cfg={}
    )
    if antialias:
        torch.save({"state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    model.eval()
    text = factory.get_tokenizer("ViT-H-14")(PROMPTS)
    with torch.inference_mode():
        scores = [model(prepare(image)[None], text[i : i + 1]) for i, image in enumerate(pictures())]
    return [float((out["image_features"] * out["text_features"]).sum()) for out in scores]


def imagereward(folder: Path) -> list[float]:
    """The package's own class; only its tokenizer's vocabulary is made up (the real one is a download)."""
    root = Path(importlib.util.find_spec("ImageReward").submodule_search_locations[0])
    for name in (
        "ImageReward",
        "ImageReward.models",
    ):  # without the package's __init__, which imports trainers
        stub = types.ModuleType(name)
        stub.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = stub
    bert_vocabulary(folder)
    blip = importlib.import_module("ImageReward.models.BLIP.blip")
    real = blip.BertTokenizer.from_pretrained
    blip.BertTokenizer.from_pretrained = lambda name: real(str(folder))
    med = {
        "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "bert",
        "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0,
        "type_vocab_size": 2, "vocab_size": 30524, "encoder_width": 768, "add_cross_attention": True,
    }  # fmt: skip
    (folder / "med_config.json").write_text(json.dumps(med))
    model = importlib.import_module("ImageReward.ImageReward").ImageReward(str(folder / "med_config.json"))
    for name, value in model.mlp.named_parameters():
        if "weight" in name:  # its own initialisation makes all rewards alike
            torch.nn.init.normal_(value, std=value.shape[1] ** -0.5)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    model.eval()
    with torch.inference_mode():
        return [model.score(text, image) for text, image in zip(PROMPTS, pictures(), strict=True)]


def bert_vocabulary(folder: Path) -> None:
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789!#'(),-.:;"
    pieces = [
        *letters,
        *(f"##{c}" for c in letters),
        "photo",
        "bench",
        "red",
        "cube",
        "of",
        "with",
        "blue",
        "##s",
    ]
    free = iter(dict.fromkeys(pieces))
    lines = [special.get(i) or next(free, f"[unused{i}]") for i in range(30522)]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )


def pickscore(folder: Path) -> list[float]:
    """The authors' snippet on a small CLIP of transformers 4 (the architecture is the library's own)."""
    from transformers import (
        AutoModel,
        AutoProcessor,
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPTokenizer,
    )

    shared = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = CLIPModel(
        CLIPConfig(
            text_config=shared | {"hidden_act": "gelu", "eos_token_id": 49407, "bos_token_id": 49406},
            vision_config=shared | {"hidden_act": "gelu", "patch_size": 14},
            projection_dim=64,
        )
    )
    model.save_pretrained(folder)
    CLIPTokenizer.from_pretrained(folder.parent / "clip_tokenizer").save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, use_fast=False)
    scores = []
    for prompt, image in zip(PROMPTS, pictures(), strict=True):
        image = image.resize((384, 384))  # on other shapes the library's crop is one pixel off OpenAI's
        images = processor(images=image, return_tensors="pt")
        text = processor(text=prompt, padding=True, truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            seen = model.get_image_features(**images)
            read = model.get_text_features(**text)
            seen, read = (x / torch.norm(x, dim=-1, keepdim=True) for x in (seen, read))
            scores.append(float((model.logit_scale.exp() * (read @ seen.T))[0]))
    return scores


def cosines(seen: torch.Tensor, read: torch.Tensor) -> list[float]:
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (seen, read)]
    return (unit[0] * unit[1]).sum(-1).tolist()


PEERS: dict[str, Callable[[Path], list[float]]] = {
    "lpips_alex": lambda folder: lpips(folder, "alex"),
    "lpips_vgg": lambda folder: lpips(folder, "vgg"),
    "clip_b32": clip_b32,
    "clip_l14": clip_l14,
    "pickscore": pickscore,
    "imagereward": imagereward,
    "hps": lambda folder: hps(folder, antialias=True),
    "hps_no_antialias": lambda folder: hps(folder, antialias=False),
}


def stand_ins() -> None:
    """What the packages import and never need here, or what setuptools has dropped."""
    if importlib.util.find_spec("pkg_resources") is None:
        stub: Any = types.ModuleType("pkg_resources")
        stub.packaging = importlib.import_module("packaging")
        importlib.import_module("packaging.version")
        sys.modules["pkg_resources"] = stub
    if importlib.util.find_spec("clint") is None:  # a download bar
        bar: Any = types.ModuleType("clint.textui")
        bar.progress = None
        sys.modules |= {"clint": types.ModuleType("clint"), "clint.textui": bar}


def main(work: Path, names: list[str]) -> None:
    stand_ins()
    work.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures()):
        picture.save(work / f"{index}.png")
        noisy(picture).save(work / f"{index}-noisy.png")
    (work / "prompts.json").write_text(json.dumps(PROMPTS))
    package = Path(importlib.util.find_spec("clip").submodule_search_locations[0])
    clip_tokenizer(work / "clip_tokenizer", package / "bpe_simple_vocab_16e6.txt.gz")
    for name in names or PEERS:
        folder = work / name
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        scores = PEERS[name](folder)
        (folder / "scores.json").write_text(json.dumps(scores))
        print(name, scores, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
