"""Our metrics give the numbers of the original packages, on small weights in the released layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.metrics.helpers import Prompt
from tests.metrics.peer_cases import FILE, MED, TEXTS, bert_tokenizer, clip_tokenizer, fill, pictures

from sinkscope import metrics
from sinkscope.metrics import score_rows
from sinkscope.metrics.convert import _common, _open_clip, convert

PEERS = json.loads(FILE.read_text())
PROMPTS = [Prompt(text) for text in TEXTS]


def agree(metric, name, reference=None):
    found = metric.score(pictures(), PROMPTS, reference)
    assert found.dtype == np.float64
    assert found == pytest.approx(PEERS[name]["scores"], abs=1e-5)
    # One image at a time gives the same, so batching does not matter.
    single = [
        metric.score([image], [prompt], None if reference is None else [other])[0]
        for image, prompt, other in zip(pictures(), PROMPTS, reference or pictures(), strict=True)
    ]
    assert single == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
def test_lpips(net, tmp_path):
    weights = fill(PEERS[f"lpips-{net}"]["shapes"])
    backbone = {name: value for name, value in weights.items() if name.startswith("features")}
    torch.save(backbone | {"classifier.1.weight": torch.zeros(2, 2)}, tmp_path / "b.pth")
    torch.save({name: value for name, value in weights.items() if name not in backbone}, tmp_path / "l.pth")
    folder = convert(f"lpips-{net}", [tmp_path / "b.pth", tmp_path / "l.pth"], tmp_path / "made")
    agree(metrics.get("lpips", net=net, checkpoint=folder, batch=2), f"lpips-{net}", pictures(seed=10))


def test_clip(tmp_path):
    state = fill(PEERS["clip"]["shapes"])
    config = _open_clip.config_of(state, vision_heads=1, text_heads=2, act="quick_gelu")
    files = _common.tokenizer_files(str(clip_tokenizer(tmp_path / "words")))
    part = _common.Part(_open_clip.rename(state), config)
    _common.write_folder(tmp_path / "made", {"": part}, {}, [], files)
    agree(metrics.get("clip_t", checkpoint=tmp_path / "made"), "clip")


def test_hps(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKSCOPE_WEIGHTS", str(tmp_path / "weights"))
    torch.save({"state_dict": fill(PEERS["hps"]["shapes"])}, tmp_path / "HPS_v2.1_compressed.pt")
    words = clip_tokenizer(tmp_path / "words")
    folder = convert("hps", [tmp_path / "HPS_v2.1_compressed.pt"], tokenizer=str(words))
    assert folder == tmp_path / "weights" / "hps-v2.1"
    metric = metrics.get("hps", batch=2)
    agree(metric, "hps")
    assert metric.identity()["version"] == "2.1" and "antialias True" in metric.identity()["preprocess"]
    assert metric.identity()["source"][0]["file"] == "HPS_v2.1_compressed.pt"
    plain = metrics.get("hps", antialias=False).score(pictures(), PROMPTS)
    assert np.abs(plain - PEERS["hps"]["scores"]).max() > 1e-3
    assert metric.notes(PROMPTS) == ["", "prompt cut from 31 to 16 tokens", "prompt cut from 62 to 16 tokens"]


def test_imagereward(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKSCOPE_WEIGHTS", str(tmp_path / "weights"))
    torch.save(fill(PEERS["imagereward"]["shapes"]), tmp_path / "ImageReward.pt")
    (tmp_path / "med_config.json").write_text(json.dumps(MED))
    words = bert_tokenizer(tmp_path / "words")
    sources = [tmp_path / "ImageReward.pt", tmp_path / "med_config.json"]
    convert("imagereward", sources, tokenizer=str(words))
    metric = metrics.get("imagereward", batch=2)
    agree(metric, "imagereward")
    identity = metric.identity()
    assert identity["checkpoint"] == "imagereward-v1.0" and "crop-32" in identity["preprocess"]
    rows = score_rows(metric, pictures(), PROMPTS)
    assert rows["status"].tolist() == ["ok"] * 3
    assert rows["note"].tolist()[0] == "" and rows["note"][2] == "prompt cut from 62 to 35 tokens"
    assert metrics.get("image_reward").name == "imagereward"
