"""The embedded models as a user meets them: they load both ways and paint what they are told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from PIL import Image

import sinkscope as sk
from sinkscope import shapes
from sinkscope.shapes import reader
from sinkscope.shapes.evaluate import accuracy, wilson
from sinkscope.shapes.painter import COLORS, SHAPES, paint
from sinkscope.shapes.scenes import draw

SHIPPED = [name for name in shapes.EMBEDDED if (shapes._FOLDERS[name] / "pipeline").exists()]


@pytest.fixture(scope="module")
def pipe() -> StableDiffusion3Pipeline:
    return sk.load("shapes")


def picture(pipe: DiffusionPipeline, **options: object) -> np.ndarray:
    generator = torch.Generator().manual_seed(7)
    return np.asarray(pipe("a photo of a red circle", generator=generator, **options).images[0])


@pytest.mark.parametrize("name", SHIPPED)
def test_plain_diffusers_loads_the_same_model(name: str) -> None:
    plain = DiffusionPipeline.from_pretrained(shapes.folder(name), local_files_only=True)
    plain.set_progress_bar_config(disable=True)
    expected = picture(plain, **shapes.defaults(name))
    assert np.array_equal(picture(sk.load(name)), expected)


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_are_small_and_safetensors_only(name: str) -> None:
    files = [file for file in shapes.folder(name).parent.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 30e6
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}


def test_the_embedded_clip_is_small() -> None:
    assert sum(file.stat().st_size for file in shapes.clip_folder().rglob("*")) <= 8e6


@pytest.mark.skipif("shapes-unet" not in SHIPPED, reason="no weights of shapes-unet in this checkout")
def test_both_models_share_text_encoders_and_autoencoder(pipe: StableDiffusion3Pipeline) -> None:
    other = sk.load("shapes-unet")
    for part in ("text_encoder", "text_encoder_2", "vae"):
        shared = getattr(pipe, part).state_dict()
        for key, value in getattr(other, part).state_dict().items():
            twin = shared[key] if key in shared else shared[f"text_model.{key}"]
            assert torch.equal(value, twin), f"{part}.{key}"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_record_says_how_it_was_trained_and_how_good_it_is(name: str) -> None:
    record = shapes.training_record(name)
    assert record["command"][:3] == ["python", "-m", "sinkscope.shapes.train"]
    assert record["accuracy"]["seen"]["n"] >= 600
    for split in ("seen", "heldout"):
        for row in record["accuracy"][split]["tasks"].values():
            assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    json.dumps(record)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_it_paints_what_the_record_claims(name: str) -> None:
    claimed = shapes.training_record(name)["accuracy"]["seen"]["overall"]
    found = accuracy(sk.load(name), 60, split="seen", batch=20)["overall"]
    assert found >= claimed - 0.17  # three standard errors of 60 images


def test_scenes_are_read_through_the_autoencoder(pipe: StableDiffusion3Pipeline) -> None:
    _, scenes = draw(100, np.random.default_rng(11))
    images = torch.from_numpy(paint(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        again = pipe.vae.decode(pipe.vae.encode(images).latent_dist.mean).sample
    pixels = ((again.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    right = 0
    for i, image in enumerate(pixels):
        seen = sorted((item.shape, item.color) for item in reader.read(Image.fromarray(image)).objects)
        slots = zip(scenes.shape[i], scenes.color[i], strict=True)
        right += seen == sorted((SHAPES[s], COLORS[c]) for s, c in slots if s >= 0)
    assert right >= 99


def test_padding_follows_sd3(pipe: StableDiffusion3Pipeline) -> None:
    assert pipe.tokenizer.pad_token_id == pipe.tokenizer.eos_token_id
    assert pipe.tokenizer_2.pad_token == "!" and pipe.tokenizer_2.pad_token_id == 0
    assert pipe.tokenizer_3.pad_token_id == 0
    assert len(pipe.tokenizer("a photo of a red circle").input_ids) == 8  # every word is one token


def test_wilson_interval_is_the_textbook_one() -> None:
    row = wilson(45, 50)
    assert row["accuracy"] == 0.9
    assert row["low"] == pytest.approx(0.7864, abs=2e-3) and row["high"] == pytest.approx(0.9565, abs=2e-3)


def test_a_missing_model_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(shapes._FOLDERS, "shapes", tmp_path)
    with pytest.raises(sk.errors.MissingWeightsError, match="train the model with"):
        sk.load("shapes")
