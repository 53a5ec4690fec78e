"""CLIP-T on a tiny random checkpoint: preprocessing, features, batching, errors."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tests.metrics.helpers import PROMPTS, Prompt, image, tiny_clip, tiny_siglip
from transformers import AutoTokenizer, CLIPModel

from sinkscope import metrics
from sinkscope.errors import MissingWeightsError, UsageError
from sinkscope.metrics import _clip, _two_towers
from sinkscope.metrics._clip_input import CLIP_MEAN, CLIP_STD, ImageRecipe, recipe_for

IMAGES = [image(i, size) for i, size in enumerate([(64, 64), (50, 90), (33, 32)])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return metrics.get("clip_t", checkpoint=folder)


def crop_oracle(picture: Image.Image, size: int) -> np.ndarray:
    """The published recipe in NumPy: floor of the long side, rounded crop offset."""
    width, height = picture.size
    short = min(width, height)
    target = (int(size * width / short), int(size * height / short))
    values = np.asarray(picture.resize(target, Image.Resampling.BICUBIC))
    left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)
    values = values[top : top + size, left : left + size].astype(np.float32) / np.float32(255)
    return ((values - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(224, 224), (640, 427), (333, 501), (768, 1344), (64, 64), (225, 230)])
def test_preprocessing_is_bit_exact(size):
    picture = image(3, size)
    found = ImageRecipe(size=224, fit="crop")(picture)
    assert found.shape == (3, 224, 224) and found.dtype == torch.float32
    assert np.array_equal(found.numpy(), crop_oracle(picture, 224))


def test_siglip_squashes():
    found = ImageRecipe(size=32, fit="squash", mean=(0.5,) * 3, std=(0.5,) * 3)(image(0, (64, 48)))
    direct = np.asarray(image(0, (64, 48)).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    assert np.array_equal(found.numpy(), ((direct - np.float32(0.5)) / np.float32(0.5)).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(512, 512), (97, 50)])
def test_siglip_input_is_that_of_transformers(size):
    processor = getattr(transformers, "SiglipImageProcessorPil", None)
    if processor is None:
        pytest.skip("needs transformers 5, whose Pillow processor is independent of torchvision")
    theirs = processor(size={"height": 32, "width": 32})(images=image(1, size), return_tensors="np")
    ours = ImageRecipe(size=32, fit="squash", mean=(0.5,) * 3, std=(0.5,) * 3)(image(1, size))
    assert np.array_equal(ours.numpy(), theirs["pixel_values"][0])


def test_the_filter_of_siglip_comes_from_the_checkpoint(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"resample": 2}))
    bilinear, always = recipe_for(tmp_path, "siglip", 32), recipe_for(tmp_path, "clip", 32)
    assert bilinear.resample == "bilinear" and "pil-bilinear-squash-32" in bilinear.id
    assert always.resample == "bicubic"
    cubic = ImageRecipe(size=32, fit="squash", mean=bilinear.mean, std=bilinear.std)
    assert not torch.equal(bilinear(image(0)), cubic(image(0)))


def test_mean_and_std_come_from_the_checkpoint(tmp_path):
    assert recipe_for(tmp_path, "clip", 32).mean == CLIP_MEAN
    assert recipe_for(tmp_path, "siglip", 32).fit == "squash"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    recipe = recipe_for(tmp_path, "clip", 32)
    assert recipe.mean == (0.1, 0.2, 0.3) and recipe.std == CLIP_STD and "0.1" in recipe.id


def test_scores_are_cosines_of_the_model(folder, clip):
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pixels = torch.stack([torch.from_numpy(crop_oracle(picture, 32)) for picture in IMAGES])
    text = tokenizer(
        [p.text for p in PROMPTS], padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.inference_mode():
        out = model(pixel_values=pixels, input_ids=text["input_ids"], attention_mask=text["attention_mask"])
    expected = (out.image_embeds * out.text_embeds).sum(-1).numpy()
    found = clip.score(IMAGES, PROMPTS)
    assert found.dtype == np.float64 and found == pytest.approx(expected, abs=1e-6)
    assert len(set(found.round(6))) == 3


def test_siglip_checkpoints_work(tmp_path):
    metric = metrics.get("clip_t", checkpoint=tiny_siglip(tmp_path))
    values = metric.score(IMAGES, PROMPTS)
    assert (np.abs(values) <= 1).all() and len(set(values.round(6))) == 3
    assert "squash-32" in metric.identity()["preprocess"]
    assert metric.identity()["backend"] == "transformers.SiglipModel"


def test_batching_does_not_matter(folder, clip):
    one = metrics.get("clip_t", checkpoint=folder, batch=1).score(IMAGES * 2, PROMPTS * 2)
    many = clip.score(IMAGES * 2, PROMPTS * 2)
    assert one == pytest.approx(many, abs=1e-6) and np.allclose(one[:3], one[3:])


def test_long_prompts_keep_their_end(clip):
    assert np.isfinite(clip.score(IMAGES[:1], [Prompt("a red circle " * 20)])).all()


def test_half_precision_files_run_in_float32(tmp_path):
    metric = metrics.get("clip_t", checkpoint=tiny_clip(tmp_path / "half", half=True))
    metric.score(IMAGES[:1], PROMPTS[:1])
    assert next(metric._model().parameters()).dtype == torch.float32


def test_both_kinds_of_feature_helpers():
    tensor = torch.tensor([[3.0, 4.0]])
    boxed = types.SimpleNamespace(pooler_output=tensor)
    assert torch.equal(_two_towers._unit(tensor), _two_towers._unit(boxed))
    assert _two_towers._unit(tensor).norm() == 1


def test_identity(folder, clip):
    identity = clip.identity()
    assert identity["checkpoint"] == folder.name and len(identity["sha256"]) == 64
    assert identity["dtype"] == "float32" and "crop-32" in identity["preprocess"]
    assert str(folder) not in json.dumps(identity)


def test_default_is_the_checkpoint_of_shapes(folder, clip, monkeypatch):
    monkeypatch.setattr(
        _clip, "import_module", lambda name: types.SimpleNamespace(clip_folder=lambda: folder)
    )
    default = metrics.get("clip_t")
    assert default.score(IMAGES, PROMPTS).tolist() == clip.score(IMAGES, PROMPTS).tolist()
    assert default.identity()["checkpoint"] == "shapes"
    assert _clip.ClipT.check().status == "ready"


def test_absent_checkpoints_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="hf download openai/clip-vit-base-patch32"):
        metrics.get("clip_t", checkpoint=tmp_path).score(IMAGES[:1], PROMPTS[:1])
    with pytest.raises(MissingWeightsError, match="hf download nobody/nothing"):
        metrics.get("clip_t", checkpoint="nobody/nothing").score(IMAGES[:1], PROMPTS[:1])
    with pytest.raises(UsageError, match="not a hub id"):
        metrics.get("clip_t", checkpoint="no/such/folder").identity()
    monkeypatch.setattr(
        _clip, "import_module", lambda name: types.SimpleNamespace(clip_folder=lambda: tmp_path)
    )
    assert _clip.ClipT.check().status == "missing"


def test_other_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="'bert' model, expected clip or siglip"):
        metrics.get("clip_t", checkpoint=tmp_path).identity()
    with pytest.raises(UsageError, match="batch=0"):
        metrics.get("clip_t", checkpoint=tmp_path, batch=0)


def test_prompts_are_needed(clip):
    with pytest.raises(UsageError, match="needs one prompt per image"):
        clip.score(IMAGES)
