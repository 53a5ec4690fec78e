"""Names, plugins, damaged images, and the scene metric with a stand-in reader."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from PIL import Image
from tests.metrics.helpers import Prompt, image, noisy

from sinkscope import metrics
from sinkscope.errors import MissingDependencyError, UsageError
from sinkscope.metrics import ImageError, _registry, score_rows

BUILT_IN = (
    "scene clip_t lpips ssim ms_ssim rmse psnr pickscore hps imagereward geneval dino vqascore "
    "frame_change frame_change_rmse "
    "loss perplexity accuracy top1 feature_cosine"
).split()


class Brightness:
    """A plugin in the shape the documentation asks for."""

    name = "brightness"
    direction = "none"
    needs: frozenset[str] = frozenset()

    def identity(self):
        return {"backend": "numpy"}

    def score(self, images, prompts=None, reference=None):
        values = np.array([np.asarray(picture).mean() for picture in images])
        return np.where(values == 0, np.nan, values)


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.setitem(
        sys.modules,
        "a_plugin",
        types.SimpleNamespace(Brightness=Brightness, Wrong=lambda: 3, Built=dict),
    )
    points = [
        EntryPoint("brightness", "a_plugin:Brightness", _registry.GROUP),
        EntryPoint("wrong", "a_plugin:Wrong", _registry.GROUP),
        EntryPoint("gone", "a_plugin_that_is_gone:Metric", _registry.GROUP),
        EntryPoint("built", "a_plugin:Built", _registry.GROUP),
        EntryPoint("rmse", "a_plugin:Brightness", _registry.GROUP),
    ]
    monkeypatch.setattr(_registry, "entry_points", lambda group: points)


@pytest.fixture
def reader(monkeypatch):
    """A reader that calls an image correct when its mean colour is the one the metadata names."""

    def judge(picture, metadata):
        channel = {"red": 0, "green": 1, "blue": 2}[metadata["include"][0]["color"]]
        correct = int(np.asarray(picture).mean(axis=(0, 1)).argmax()) == channel
        return types.SimpleNamespace(correct=correct, reason="")

    module = types.SimpleNamespace(judge=judge, __file__=__file__)
    monkeypatch.setitem(sys.modules, "sinkscope.shapes.reader", module)


def test_names_and_plugins(plugin):
    assert metrics.names() == [*BUILT_IN, "brightness", "built", "gone", "wrong"]
    assert metrics.get("brightness").score([image(0)])[0] > 0
    assert type(metrics.get("rmse")).__name__ == "Rmse"
    with pytest.raises(UsageError, match="Did you mean 'clip_t'"):
        metrics.get("clipt")
    with pytest.raises(MissingDependencyError, match="a_plugin_that_is_gone"):
        metrics.get("gone")
    with pytest.raises(UsageError, match="expected the members of"):
        metrics.get("wrong")
    with pytest.raises(UsageError, match="expected a class that makes one"):
        metrics.get("built")
    with pytest.raises(UsageError, match="Its options: scales"):
        metrics.get("ms_ssim", scale=3)


def test_available_covers_every_name(plugin, reader, monkeypatch, tmp_path):
    from sinkscope.metrics import _clip

    monkeypatch.setattr(
        _clip, "import_module", lambda name: types.SimpleNamespace(clip_folder=lambda: tmp_path)
    )
    monkeypatch.setenv("SINKSCOPE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    info = {entry.name: entry for entry in metrics.available()}
    assert list(info) == metrics.names()
    assert {name: entry.status for name, entry in info.items()} == {
        **{"scene": "ready", "clip_t": "missing", "lpips": "missing", "ssim": "ready", "ms_ssim": "ready"},
        **{"psnr": "ready", "pickscore": "missing", "hps": "missing", "imagereward": "missing"},
        **{"geneval": "missing", "dino": "missing", "vqascore": "missing"},
        **{name: "ready" for name in ("frame_change", "frame_change_rmse")},
        **{name: "ready" for name in ("loss", "perplexity", "accuracy", "top1", "feature_cosine")},
        **{"rmse": "ready", "brightness": "ready", "built": "ready", "gone": "broken", "wrong": "ready"},
    }
    assert all(bool(entry.reason) == bool(entry.how) == (entry.status != "ready") for entry in info.values())
    for name, size, command in (
        ("lpips", "244 MB", "curl -fLO https"),
        ("hps", "3.9 GB", "hf download xswu/HPSv2 HPS_v2.1_compressed.pt"),
        ("imagereward", "1.8 GB", "hf download THUDM/ImageReward ImageReward.pt med_config.json"),
        ("pickscore", "3.9 GB", "hf download yuvalkirstain/PickScore_v1"),
        ("dino", "1.2 GB", "hf download facebook/dinov2-large"),
        ("vqascore", "15.8 GB", "hf download Salesforce/blip2-flan-t5-xl --include"),
        ("geneval", "280 MB", "curl -fLO https://download.openmmlab.com/"),
    ):
        assert size in info[name].reason and command in info[name].how


@pytest.mark.parametrize("name", ["ssim", "ms_ssim", "rmse"])
def test_every_identity_has_the_same_keys(name, reader):
    needed = {"metric", "backend", "checkpoint", "sha256", "dtype", "preprocess", "versions"}
    assert needed <= set(metrics.get(name).identity()) and needed <= set(metrics.get("scene").identity())


def test_scene(reader):
    prompts = [
        Prompt("a red circle", metadata={"include": [{"class": "circle", "count": 1, "color": "red"}]})
    ] * 2
    pictures = [Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")]
    assert metrics.get("scene").score(pictures, prompts).tolist() == [1.0, 0.0]
    with pytest.raises(UsageError, match="1 prompts without metadata"):
        metrics.get("scene").score(pictures, [prompts[0], Prompt("a cat")])
    with pytest.raises(ImageError, match="transparency"):
        metrics.get("scene").score([pictures[0].convert("RGBA"), pictures[1]], prompts)


def files(folder):
    """Image files by what is wrong with them."""
    good = image(0)
    made = {
        name: folder / f"{name}.png"
        for name in ("good", "grey", "alpha", "deep", "deep_colour", "cut", "text")
    }
    good.save(made["good"])
    good.convert("L").save(made["grey"])
    good.convert("RGBA").save(made["alpha"])
    Image.fromarray(np.full((64, 64), 300, dtype=np.uint16)).save(made["deep"])
    made["cut"].write_bytes(made["good"].read_bytes()[:2000])
    made["text"].write_text("not an image")
    made["deep_colour"].write_bytes(deep_png())
    made["small"] = folder / "small.png"
    image(0, (32, 32)).save(made["small"])
    made["absent"] = folder / "absent.png"
    return made


def deep_png() -> bytes:
    """A 1x1 PNG with 16 bits per colour, which Pillow opens as RGB."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 7)) + chunk(b"IEND", b"")


def test_damaged_images_cost_only_their_own_rows(tmp_path):
    made = files(tmp_path)
    reference = noisy(image(0))
    table = score_rows(metrics.get("ssim"), list(made.values()), reference=[reference] * len(made))
    rows = dict(zip(made, table.itertuples(), strict=True))
    assert list(table.columns) == ["value", "status", "note"]
    assert {name for name, row in rows.items() if row.status == "ok"} == {"good", "grey"}
    assert (table["value"].notna() == (table["status"] == "ok")).all()
    words = {
        "alpha": "transparency",
        "deep": "8 bits",
        "deep_colour": "8 bits",
        "cut": "truncated",
        "text": "not an image",
        "small": "32x32 and its reference 64x64",
        "absent": "no such file",
    }
    assert {name: word in rows[name].status for name, word in words.items()} == dict.fromkeys(words, True)
    assert rows["good"].value == metrics.get("ssim").score([image(0)], None, [reference])[0]


def test_damaged_references_and_wrong_sizes(tmp_path):
    made = files(tmp_path)
    table = score_rows(metrics.get("rmse"), [image(0), image(0)], reference=[made["cut"], image(0)])
    assert table["status"][0].startswith("reference: cut.png: cannot be read") and table["value"][1] == 0
    with Image.open(made["cut"]) as lazy:
        assert "cannot be read" in score_rows(Brightness(), [lazy])["status"][0]
    sized = score_rows(Brightness(), [made["good"], made["small"]], size=(64, 64))
    assert sized["status"].tolist()[0] == "ok" and "expected 64x64" in sized["status"][1]


def test_one_image_the_metric_refuses_keeps_the_others():
    tiny, good = image(0, (8, 8)), image(0)
    table = score_rows(metrics.get("ms_ssim"), [good, tiny, good], reference=[good, tiny, good])
    assert table["status"].tolist()[::2] == ["ok", "ok"] and "at least 11" in table["status"][1]


def test_a_value_that_is_no_number_is_no_score():
    table = score_rows(Brightness(), [Image.new("RGB", (4, 4), "black"), image(0)])
    assert np.isnan(table["value"][0]) and "expected a finite number" in table["status"][0]
    assert score_rows(Brightness(), []).empty


def test_what_is_missing_as_a_whole_is_an_error():
    with pytest.raises(UsageError, match="needs one reference per image: got none for 1"):
        score_rows(metrics.get("rmse"), [image(0)])
    with pytest.raises(UsageError, match="got 2 for 1"):
        score_rows(metrics.get("rmse"), [image(0)], reference=[image(0)] * 2)
