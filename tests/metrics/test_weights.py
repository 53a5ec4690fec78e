"""Weights: converted safely, loaded once, refused when they do not fit, and batches that fit into memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.metrics.helpers import PROMPTS, Prompt, image, tiny_clip, tiny_siglip
from tests.metrics.peer_cases import FILE, bert_tokenizer, clip_tokenizer, fill

from sinkscope import cli, metrics
from sinkscope.errors import MissingWeightsError, SinkscopeError, StoreError, UsageError
from sinkscope.metrics import _files, _two_towers, _weights
from sinkscope.metrics._batches import Batches
from sinkscope.metrics.convert import KINDS, convert

PEERS = json.loads(FILE.read_text())
IMAGES = [image(i) for i in range(3)]


class Evil:
    """A pickle that runs code when it is opened without care."""

    def __reduce__(self):
        return (os.mkdir, ("evil-was-here",))


@pytest.fixture
def hps(tmp_path, monkeypatch):
    """A source file and a tokenizer folder of a small HPS; the weights folder is empty."""
    monkeypatch.setenv("SINKSCOPE_WEIGHTS", str(tmp_path / "weights"))
    source = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": fill(PEERS["hps"]["shapes"])}, source)
    return source, clip_tokenizer(tmp_path / "words")


def test_pickles_with_code_are_refused(hps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, words = hps
    for content in (Evil(), {"state_dict": {"visual.proj": Evil()}}):
        torch.save(content, source)
        with pytest.raises(UsageError, match="cannot be read as a file of tensors alone"):
            convert("hps", [source], tokenizer=str(words))
    source.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UsageError, match="cannot be read as a file of tensors alone"):
        convert("hps", [source], tokenizer=str(words))
    assert not (tmp_path / "evil-was-here").exists() and not (tmp_path / "weights").exists()


def test_sources_that_are_something_else_are_named(hps, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source, words = hps
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    for sources, message in (
        (
            [tmp_path / "other.pt"],
            "no tensor 'visual.conv1.weight' among its 1: it is not an HPS v2 checkpoint",
        ),
        ([source, source], "Got 2 files for 'hps', expected 1: HPS_v2.1_compressed.pt"),
        ([tmp_path / "none.pt"], "No such file: .*none.pt"),
    ):
        with pytest.raises(UsageError, match=message):
            convert("hps", sources, tokenizer=str(words))
    with pytest.raises(UsageError, match="Unknown kind of weights 'hpss'.*Did you mean 'hps'"):
        convert("hpss", [source])
    with pytest.raises(MissingWeightsError, match="hf download laion/CLIP-ViT-H-14"):
        convert("hps", [source])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="has no tokenizer"):
        convert("hps", [source], tokenizer=str(tmp_path / "empty"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="holds something else"):
        convert("hps", [source], tmp_path / "thesis", tokenizer=str(words))
    with pytest.raises(UsageError, match="needs a folder to write to: sinkscope convert hf SOURCE --out"):
        convert("hf", [tmp_path / "empty"])
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "precious"


def test_imagereward_and_lpips_sources_are_checked(tmp_path):
    words = bert_tokenizer(tmp_path / "words")
    (tmp_path / "med.json").write_text("{")
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="not readable JSON.*med_config.json"):
        convert("imagereward", [tmp_path / "a.pt", tmp_path / "med.json"], tokenizer=str(words))
    (tmp_path / "med.json").write_text('{"hidden_size": 8}')
    with pytest.raises(UsageError, match="it is not an ImageReward checkpoint"):
        convert("imagereward", [tmp_path / "a.pt", tmp_path / "med.json"], tokenizer=str(words))
    with pytest.raises(
        UsageError, match="lacks 'features.0.weight' and 9 more of 10 tensors.*backbone first"
    ):
        convert("lpips-alex", [tmp_path / "a.pt", tmp_path / "a.pt"], tmp_path / "made")


def test_a_full_disk_leaves_nothing_half_made(hps, tmp_path, monkeypatch):
    from sinkscope.metrics.convert import _common

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_common.shutil, "copyfile", full)
    with pytest.raises(StoreError, match="No space left"):
        convert("hps", [hps[0]], tokenizer=str(hps[1]))
    assert list((tmp_path / "weights").iterdir()) == []


def test_the_command_converts_and_lists(hps, capsys, tmp_path):
    source, words = hps
    assert cli.main(["convert", "hps", str(source), "--tokenizer", str(words)]) == 0
    assert "hps-v2.1" in capsys.readouterr().out
    assert metrics.get("hps").score(IMAGES, PROMPTS).shape == (3,)
    assert cli.main(["convert", "hps", str(source), "--tokenizer", str(words)]) == 0  # again: replaced
    capsys.readouterr()
    assert cli.main(["convert"]) == 0
    listed = capsys.readouterr().out
    assert all(f"sinkscope convert {kind} " in listed for kind in KINDS)
    assert cli.main(["convert", "hps", str(tmp_path / "none.pt")]) == 2


def test_a_pickled_transformers_checkpoint_is_converted(tmp_path):
    folder = tiny_clip(tmp_path / "clip")
    expected = metrics.get("clip_t", checkpoint=folder).score(IMAGES, PROMPTS)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match=r"holds pytorch_model.bin, a pickle: sinkscope convert hf"):
        metrics.get("clip_t", checkpoint=folder).score(IMAGES, PROMPTS)
    made = convert("hf", [folder], tmp_path / "made")
    assert metrics.get("clip_t", checkpoint=made).score(IMAGES, PROMPTS).tolist() == expected.tolist()
    with pytest.raises(UsageError, match="no folder with config.json and pytorch_model.bin"):
        convert("hf", [made], tmp_path / "twice")


def test_weights_of_another_architecture_are_refused(tmp_path):
    folder = tiny_clip(tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for damage, message in (
        (lambda: save_file({k: v for k, v in state.items() if "fc1" not in k}, folder / "model.safetensors"),
         "of another architecture.*tensors are missing.*fc1"),
        (lambda: (folder / "config.json").write_text(json.dumps(config | {"projection_dim": 8})),
         "cannot be loaded|of another architecture"),
        (lambda: (folder / "model.safetensors").write_bytes(b"cut off"), "cannot be loaded"),
        (lambda: (folder / "config.json").write_text("{}"), "no configuration of a model"),
    ):  # fmt: skip
        tiny_clip(folder)
        damage()
        with pytest.raises(UsageError, match=message):
            metrics.get("clip_t", checkpoint=folder).score(IMAGES, PROMPTS)


def test_hps_and_imagereward_take_converted_folders_only(tmp_path):
    folder = tiny_clip(tmp_path / "clip")
    with pytest.raises(UsageError, match="was not written by 'sinkscope convert hps'"):
        metrics.get("hps", checkpoint=folder).identity()
    (folder / "vision_model").mkdir()
    (folder / "text_model").mkdir()
    for part in ("vision_model/model.safetensors", "text_model/model.safetensors", "head.safetensors"):
        shutil.copyfile(folder / "model.safetensors", folder / part)
    with pytest.raises(UsageError, match="was not written by 'sinkscope convert imagereward'"):
        metrics.get("imagereward", checkpoint=folder).identity()
    with pytest.raises(UsageError, match="'siglip' model, expected clip"):
        metrics.get("pickscore", checkpoint=tiny_siglip(tmp_path / "siglip")).identity()


def test_pickscore_scales_the_cosine_and_finds_its_tokenizer(tmp_path, monkeypatch):
    folder = tiny_clip(tmp_path / "clip")
    cosine = metrics.get("clip_t", checkpoint=folder).score(IMAGES, PROMPTS)
    scale = float(load_file(folder / "model.safetensors")["logit_scale"].exp())
    metric = metrics.get("pickscore", checkpoint=folder)
    assert metric.score(IMAGES, PROMPTS) == pytest.approx(scale * cosine, rel=1e-5)
    assert metric.identity()["formula"] == "exp(logit_scale) * cos"
    words = clip_tokenizer(tmp_path / "words")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        MissingWeightsError, match="lacks its CLIP tokenizer laion/CLIP-ViT-H-14.*hf download"
    ):
        metrics.get("pickscore", checkpoint=folder).score(IMAGES, PROMPTS)
    other = metrics.get("pickscore", checkpoint=folder, tokenizer=words)
    assert other.score(IMAGES, PROMPTS) == pytest.approx(scale * cosine, rel=1e-5)


def test_a_checkpoint_is_read_once_in_a_process(tmp_path, monkeypatch):
    folder, reads = tiny_clip(tmp_path / "clip"), []
    load = _two_towers.load_model
    monkeypatch.setattr(_two_towers, "load_model", lambda *a, **k: (reads.append(a), load(*a, **k))[1])
    for _ in range(2):
        metrics.get("clip_t", checkpoint=folder).score(IMAGES, PROMPTS)
    metrics.get("pickscore", checkpoint=folder).score(IMAGES, PROMPTS)
    assert len(reads) == 1
    metrics.get("clip_t", checkpoint=folder, dtype="bfloat16").score(IMAGES, PROMPTS)
    assert len(reads) == 2
    metrics.release()
    metrics.get("clip_t", checkpoint=folder).score(IMAGES, PROMPTS)
    assert len(reads) == 3
    os.utime(folder / "model.safetensors", ns=(1, 1))  # replaced: read again
    metrics.get("clip_t", checkpoint=folder).score(IMAGES, PROMPTS)
    assert len(reads) == 4


def test_a_checkpoint_that_finds_no_room_sends_the_others_away(tmp_path, caplog):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    tries = []

    def tight():
        tries.append(len(_weights._loaded))
        if len(tries) == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 4.00 GiB")
        return "b"

    metrics.release()
    assert _weights.once("test", [tmp_path / "a"], None, lambda: "a") == "a"
    assert _weights.once("test", [tmp_path / "b"], None, tight) == "b"
    assert tries == [1, 0] and "the others are released" in caplog.text
    with pytest.raises(RuntimeError, match="something else"):
        _weights.once("other", [], None, lambda: (_ for _ in ()).throw(RuntimeError("something else")))


def test_hashes_of_the_hub_cache_are_taken_from_its_file_names(tmp_path):
    name = "ab" * 32
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / name).write_bytes(b"weights")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / name)
    assert _files.sha256([tmp_path / "model.safetensors"]) == name
    (tmp_path / "plain").write_bytes(b"weights")
    assert _files.sha256([tmp_path / "plain"]) == hashlib.sha256(b"weights").hexdigest()


def test_half_precision_moves_scores_and_says_so(tmp_path):
    folder = tiny_clip(tmp_path / "clip")
    full, half = (metrics.get("clip_t", checkpoint=folder, dtype=d) for d in ("float32", "bfloat16"))
    difference = np.abs(full.score(IMAGES, PROMPTS) - half.score(IMAGES, PROMPTS)).max()
    assert 1e-5 < difference < 0.1
    assert half.identity()["dtype"] == "bfloat16" and half.identity()["device"] == "cpu"
    assert "device" not in full.identity()
    with pytest.raises(UsageError, match="Unknown dtype 'fp16'"):
        metrics.get("clip_t", checkpoint=folder, dtype="fp16")


class Memory:
    """A forward pass that has room for `room` items."""

    def __init__(self, room, error=RuntimeError):
        self.room, self.error, self.sizes = room, error, []

    def __call__(self, items):
        self.sizes.append(len(items))
        if len(items) > self.room:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return torch.tensor([float(item) for item in items])


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, MemoryError])
def test_batches_shrink_until_they_fit(caplog, error):
    memory, batches = Memory(3, error), Batches("hps", 16, "cpu")
    with caplog.at_level(logging.WARNING, logger="sinkscope.metrics"):
        assert batches(range(20), memory).tolist() == list(range(20))
    assert memory.sizes == [16, 8, 4, *[2] * 10]
    assert "hps: out of memory with 16 at a time on cpu, going on with 8" in caplog.text
    assert batches(range(4), memory).tolist() == [0, 1, 2, 3] and memory.sizes[-2:] == [2, 2]


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta:x"])
def test_a_device_that_is_not_here_is_named(device):
    for name in ("clip_t", "hps", "imagereward", "lpips", "pickscore"):
        with pytest.raises(UsageError, match=f"Got device '{device}', which cannot be used here.*Use 'cpu'"):
            metrics.get(name, device=device)


def test_one_item_that_does_not_fit_is_an_error():
    with pytest.raises(SinkscopeError, match="'hps' does not fit into the memory of cpu even one item"):
        Batches("hps", 4, "cpu")([1, 2], Memory(0))
    with pytest.raises(RuntimeError, match="shapes"):
        Batches("hps", 4, "cpu")([1], lambda items: (_ for _ in ()).throw(RuntimeError("shapes differ")))


def test_cut_prompts_are_noted_per_prompt(tmp_path):
    asked = [Prompt("a red circle"), Prompt("x" * 30)]
    for make in (tiny_clip, tiny_siglip):
        metric = metrics.get("clip_t", checkpoint=make(tmp_path / make.__name__))
        assert metric.notes(asked) == ["", "prompt cut from 32 to 16 tokens"]
        table = metrics.score_rows(metric, IMAGES[:2], asked)
        assert table["note"].tolist() == metric.notes(asked) and (table["status"] == "ok").all()
    assert metric.notes([]) == []
    reference = metrics.score_rows(metrics.get("rmse"), IMAGES[:1], None, IMAGES[:1])
    assert reference["note"].tolist() == [""]


def test_aliases(tmp_path):
    assert metrics.canonical("clip") == "clip_t" and metrics.canonical("HPSv2.1") == "hps"
    assert metrics.canonical("rmse") == "rmse" and metrics.canonical("nothing") == "nothing"
    assert metrics.get("clip", checkpoint=tmp_path).name == "clip_t"
    assert "checkpoint" in metrics.parameters("hps") and metrics.parameters("ssim") == frozenset()


def test_the_weights_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SINKSCOPE_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert metrics.weights_folder() == tmp_path / "sinkscope" / "weights"
    (tmp_path / "sinkscope.json").write_text("{")
    with pytest.raises(UsageError, match="not readable JSON"):
        _weights.provenance(tmp_path)


PACKAGE = '''
import numpy as np


class Blueness:
    """Share of blue in the light of an image."""

    name = "blueness"
    direction = "none"
    needs = frozenset()

    def identity(self):
        return {"metric": self.name, "backend": "numpy"}

    def score(self, images, prompts=None, reference=None):
        means = [np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in images]
        return np.array([mean[2] / max(mean.sum(), 1.0) for mean in means])
'''


def test_a_package_of_twenty_lines_is_listed(tmp_path, monkeypatch, capsys):
    assert len(PACKAGE.strip().splitlines()) <= 20
    (tmp_path / "blueness.py").write_text(PACKAGE)
    about = tmp_path / "blueness-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: blueness\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sinkscope.metrics]\nblueness = blueness:Blueness\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["score", "--list"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "blueness" in line]
    assert lines and "ready" in lines[0]
