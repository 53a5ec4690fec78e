"""Features of a vision tower, the DINO distance, and what is said where weights do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.metrics.helpers import image, noisy, tiny_clip, tiny_siglip
from transformers import Dinov2Config, Dinov2Model

from sinkscope import metrics
from sinkscope.errors import MissingWeightsError, UsageError
from sinkscope.metrics import distances


def tiny_dino(folder: Path) -> Path:
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(image_size=56, patch_size=14, **shared)).save_pretrained(folder)
    return folder


def plain(image: Image.Image, side: int, mean: list[float], std: list[float]) -> torch.Tensor:
    small = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    values = (small / 255 - np.array(mean)) / np.array(std)
    return torch.tensor(values).permute(2, 0, 1)[None].float()


def test_dino_features_are_the_class_token_at_224(tmp_path):
    folder = tiny_dino(tmp_path)
    pictures = [image(0), image(1, (80, 50))]
    found = distances.features("kid", checkpoint=folder, batch=1)(pictures)
    model = Dinov2Model.from_pretrained(folder).eval()
    assert found.dtype == np.float64 and found.shape == (2, 16)
    for picture, row in zip(pictures, found, strict=True):
        values = plain(picture, 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        with torch.inference_mode():
            expected = model(pixel_values=values).pooler_output[0]
        assert row == pytest.approx(expected.numpy(), abs=1e-5)
    together = distances.features("fd_dinov2", checkpoint=folder)(pictures)
    assert together == pytest.approx(found, abs=1e-6)


def test_clip_features_have_length_one_and_are_not_cropped(tmp_path):
    folder = tiny_clip(tmp_path)
    # Twice as wide as tall: what lies beyond the middle square counts.
    left, right = Image.new("RGB", (64, 32), "red"), Image.new("RGB", (64, 32), "red")
    right.paste("blue", (56, 0, 64, 32))
    found = distances.features("cmmd", checkpoint=folder)([left, right])
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_dino_distance(tmp_path):
    metric = metrics.get("dino", checkpoint=tiny_dino(tmp_path), batch=2)
    base = [image(seed) for seed in range(3)]
    assert metric.score(base, reference=base) == pytest.approx([0, 0, 0], abs=1e-6)
    changed = [noisy(picture, 40) for picture in base]
    a, b = (metric.features(pictures) for pictures in (changed, base))
    cosines = [float(x @ y / np.sqrt(x @ x) / np.sqrt(y @ y)) for x, y in zip(a, b, strict=True)]
    assert metric.score(changed, reference=base) == pytest.approx(1 - np.array(cosines), abs=1e-9)
    assert (metric.score(changed, reference=base) > 1e-4).all()
    assert metric.score([], reference=[]).shape == (0,)
    identity = metric.identity()
    assert identity["metric"] == "dino" and "224" in identity["preprocess"] and len(identity["sha256"]) == 64


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    siglip = tiny_siglip(tmp_path / "siglip")
    with pytest.raises(UsageError, match="is a 'siglip' model, expected dinov2"):
        distances.features("fd_dinov2", checkpoint=siglip).identity()
    with pytest.raises(UsageError, match="Distance 'kid': .* Its options: checkpoint, batch"):
        distances.features("kid", sigma=3)
    with pytest.raises(UsageError, match="Did you mean 'kid'"):
        distances.features("kids")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeightsError, match="'cmmd' has no checkpoint in .*hf download openai"):
        distances.features("cmmd", checkpoint=tmp_path / "empty").files()


def test_the_doctor_names_every_distance():
    infos = {info.name: info for info in distances.available()}
    assert set(infos) == {"kid", "cmmd", "fd_dinov2", "fd_clip"}
    for info in infos.values():
        assert info.status == "ready" or ("hf download" in info.how and "GB" in info.reason)
