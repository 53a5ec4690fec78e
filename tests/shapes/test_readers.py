"""The embedded models that read: their texts and scenes, their likelihoods, and what they refuse."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sinkscope as sk
from sinkscope import shapes
from sinkscope.errors import MissingWeightsError, UsageError
from sinkscope.shapes.language.stories import KEPT_FOR_TESTS, WORDS, story, vocabulary
from sinkscope.shapes.language.train import counted, masked
from sinkscope.shapes.painter import COLORS, SHAPES, paint
from sinkscope.shapes.vision._pipeline import painted, truth

TEXTS = [story(KEPT_FOR_TESTS + index) for index in range(4)]
CAPTIONS = ["a photo of a red circle", "a photo of three stars", "a photo of a ring above a heart"]
TEXT_MODELS = ("shapes-lm", "shapes-mdlm")
IMAGE_MODELS = ("shapes-vit", "shapes-vit-registers")


@pytest.fixture(scope="module", params=TEXT_MODELS)
def reader(request: pytest.FixtureRequest):
    return sk.load(request.param)


@pytest.fixture(scope="module", params=IMAGE_MODELS)
def looker(request: pytest.FixtureRequest):
    return sk.load(request.param)


def seeds(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(index) for index in range(count)]


# ---- stories


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**33))
def test_a_story_is_true_to_itself(seed: int) -> None:
    text = story(seed)
    assert story(seed) == text
    assert len(text.split()) == WORDS and set(text.split()) <= set(vocabulary())
    colors: dict[str, set[str]] = {}
    pattern = rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})\b"
    for color, shape in re.findall(pattern, text):
        colors.setdefault(shape, set()).add(color)
    for shape, color in re.findall(rf"the ({'|'.join(SHAPES)}) is ({'|'.join(COLORS)}) \.", text):
        colors.setdefault(shape, set()).add(color)
    for shape, color in re.findall(rf"color is the ({'|'.join(SHAPES)}) \? ({'|'.join(COLORS)})", text):
        colors.setdefault(shape, set()).add(color)
    for shape, color in re.findall(rf"the ({'|'.join(SHAPES)}) is not ({'|'.join(COLORS)})", text):
        assert color not in colors.get(shape, set())
    assert all(len(found) == 1 for found in colors.values())
    relation = r"the (\w+) is (left of|right of|above|below) the (\w+)"
    said = {(a, b): rel for a, rel, b in re.findall(relation, text)}
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for (a, b), rel in said.items():
        assert said.get((b, a)) != rel, f"{a} and {b} are both {rel} each other"
        assert opposite[rel] != said.get((a, b))


# ---- likelihoods


def test_losses_are_those_of_a_plain_forward_pass() -> None:
    pipe = sk.load("shapes-lm")
    read = pipe(TEXTS).arrays
    ids = torch.tensor([pipe.tokenizer(text)["input_ids"] for text in TEXTS])
    with torch.no_grad():
        logits = pipe.transformer(input_ids=ids).logits.double()
    expected = -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    assert np.allclose([entry["loss"] for entry in read], expected, atol=1e-5)
    assert all((entry["target"] == row[1:].numpy()).all() for entry, row in zip(read, ids, strict=True))


@pytest.mark.parametrize(("name", "passes"), [("shapes-lm", 1), ("shapes-mdlm", 1), ("shapes-mdlm", 2)])
def test_the_probabilities_of_all_texts_of_two_words_add_up_to_one(
    name: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the loss of the masked-diffusion model is a log-probability too, and the two can be compared."""
    pipe = sk.load(name)
    words = range(len(pipe.tokenizer))
    every = torch.tensor([[0, a, b] for a, b in itertools.product(words, words)])
    monkeypatch.setattr(pipe, "_ids", lambda prompt: every)
    order = [torch.Generator().manual_seed(3) for _ in every]
    read = pipe(["all"], num_inference_steps=passes, generator=order).arrays
    total = np.exp(-np.array([entry["loss"].sum() for entry in read], dtype=np.float64)).sum()
    assert total == pytest.approx(1.0, abs=1e-4)


def test_a_word_is_predicted_from_what_is_uncovered_before_it() -> None:
    pipe = sk.load("shapes-mdlm")
    (read,) = pipe(TEXTS[0], num_inference_steps=16, generator=seeds(1)).arrays
    assert np.bincount(read["step"], minlength=16).tolist() == [4] * 15 + [3]
    last = int(np.flatnonzero(read["step"] == 15)[0])
    words = TEXTS[0].split()
    words[last] = "red" if words[last] != "red" else "blue"
    (other,) = pipe(" ".join(words), num_inference_steps=16, generator=seeds(1)).arrays
    same = read["step"] < 15
    assert (read["loss"][same] == other["loss"][same]).all()
    assert read["loss"][last] != other["loss"][last]


def test_no_later_word_is_seen_from_the_left() -> None:
    pipe = sk.load("shapes-lm")
    cut = " ".join([*TEXTS[0].split()[:30], *TEXTS[1].split()[30:]])
    one, other = (pipe(text).arrays[0]["loss"] for text in (TEXTS[0], cut))
    assert np.allclose(one[:30], other[:30], atol=1e-5) and not np.allclose(one[31:], other[31:], atol=1e-2)


def test_a_text_reads_the_same_alone_and_in_a_batch(reader) -> None:
    passes = reader.defaults["num_inference_steps"]
    together = reader(TEXTS, num_inference_steps=passes, generator=seeds(4)).arrays
    (alone,) = reader(TEXTS[2], num_inference_steps=passes, generator=seeds(4)[2:3]).arrays
    assert np.allclose(alone["loss"], together[2]["loss"], atol=1e-4)
    assert reader.defaults == shapes.defaults("shapes-lm" if passes == 1 else "shapes-mdlm")


def test_the_shipped_models_are_as_good_as_their_records_say(reader) -> None:
    name = "shapes-lm" if reader.defaults["num_inference_steps"] == 1 else "shapes-mdlm"
    quality = shapes.training_record(name)["quality"]
    passes = reader.defaults["num_inference_steps"]
    texts = [story(KEPT_FOR_TESTS + index) for index in range(16)]
    read = reader(texts, num_inference_steps=passes, generator=seeds(16)).arrays
    loss = np.mean([entry["loss"] for entry in read])
    recorded = quality["loss" if name == "shapes-lm" else "loss_16_passes"]
    assert loss == pytest.approx(recorded, abs=0.12)
    assert recorded < quality["bigram"] < quality["unigram"]
    assert counted(texts[:4], training=200)["bigram"] < counted(texts[:4], training=200)["unigram"]


# ---- attention


def test_sites_tokens_and_steps(reader) -> None:
    passes = reader.defaults["num_inference_steps"]
    kind = "causal" if passes == 1 else "self"
    assert [(site.layer, site.kind, site.heads) for site in sk.sites(reader)] == [
        (layer, kind, 4) for layer in range(4)
    ]
    plain = reader(TEXTS, num_inference_steps=passes, generator=seeds(4)).arrays
    with sk.observe(reader) as seen:
        watched = reader(TEXTS, num_inference_steps=passes, generator=seeds(4)).arrays
    for one, other in zip(plain, watched, strict=True):
        assert all((one[name] == other[name]).all() for name in one)
    table = seen.sinks(keys_per_head=1)
    # Fully masked texts are equal, and yet no two of them are two sides of guidance.
    assert table["branch"].unique().tolist() == ["none"] and table["unit"].nunique() == 4
    assert sorted(table["step"].unique()) == list(range(passes))
    assert (table[table["key"] == 0]["token"] == "<bos>").all()
    assert set(table["segment"]) == {"text"}


def test_masking_drawn_for_training() -> None:
    hidden = masked(400, 64, torch.Generator().manual_seed(0))
    counts = hidden.sum(1)
    assert not hidden[:, 0].any() and counts.min() >= 1 and counts.max() <= 63
    assert 28 < counts.float().mean() < 36


# ---- pictures


def test_answers_features_and_truth(looker) -> None:
    read = looker(CAPTIONS, generator=seeds(3)).arrays
    scenes = painted(CAPTIONS, seeds(3))
    assert (truth(scenes) == np.stack([entry["target"] for entry in read])).all()
    red = 1 + COLORS.index("red")
    assert read[0]["target"].tolist() == [red, 0, 0, 0, 0, 0, 0, 0]
    tokens = 69 if len(sk.sites(looker)[0].segments) == 3 else 65
    assert read[0]["norms"].shape == (tokens,) and read[0]["patches"].shape == (64, 96)
    pictures = [Image.fromarray(pixels) for pixels in paint(scenes)]
    shown = looker(image=pictures).arrays
    assert "target" not in shown[0] and "loss" not in shown[0]
    for one, other in zip(read, shown, strict=True):
        assert (one["predicted"] == other["predicted"]).all() and (one["feature"] == other["feature"]).all()
    with torch.no_grad():
        normed = looker.transformer.backbone.layernorm(torch.zeros(1, 96))
    assert not np.allclose(read[0]["feature"], normed.numpy())


def test_segments_of_the_vision_transformers(looker) -> None:
    wanted = (
        ("cls", "register", "image") if "Register" in type(looker.transformer).__name__ else ("cls", "image")
    )
    assert {site.segments for site in sk.sites(looker)} == {wanted}


def test_registers_are_not_equal() -> None:
    tokens = sk.load("shapes-vit-registers").transformer.backbone.embeddings.register_tokens[0]
    assert torch.pdist(tokens).min() > 0.01


# ---- mistakes


def test_what_readers_refuse(reader) -> None:
    with pytest.raises(UsageError, match="do not know the word 'zebra'.*separated by blanks"):
        reader("there is a zebra .")
    with pytest.raises(UsageError, match="have 4 to 5 words: expected the same number.*set batch=1"):
        reader(["there is a ring", "there is a red ring"])
    with pytest.raises(UsageError, match="expected one text or several, none of them empty"):
        reader([" "])
    with pytest.raises(UsageError, match="Got 2 generators for 1 units"):
        reader(TEXTS[0], generator=seeds(2))


def test_passes_that_make_no_sense() -> None:
    with pytest.raises(
        UsageError, match=r"reads in one forward pass, got num_inference_steps=20. Set steps=1"
    ):
        sk.load("shapes-lm")(TEXTS[0], num_inference_steps=20)
    with pytest.raises(UsageError, match="expected 1 to 63, as every pass uncovers at least one word"):
        sk.load("shapes-mdlm")(TEXTS[0], num_inference_steps=64)


def test_what_lookers_refuse(looker) -> None:
    with pytest.raises(UsageError, match="'a cat' is no caption of the shapes grammar"):
        looker("a cat")
    with pytest.raises(UsageError, match="got both or neither"):
        looker()
    with pytest.raises(UsageError, match="a picture of 32 x 32: expected PIL images of 64 x 64 pixels"):
        looker(image=Image.new("RGB", (32, 32)))


def test_a_model_that_is_not_here_says_how_to_train_it(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setitem(shapes._FOLDERS, "shapes-mdlm", tmp_path / "gone")
    with pytest.raises(MissingWeightsError, match="sinkscope.shapes.language.train shapes-mdlm --out"):
        sk.load("shapes-mdlm")
