"""VQAScore: the probability of "yes", from small random BLIP-2 and InstructBLIP models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.metrics.helpers import Prompt, image, tiny_clip
from tests.metrics.peer_cases import bert_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    OPTConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from sinkscope import metrics
from sinkscope.errors import MissingWeightsError, UsageError
from sinkscope.metrics._vqascore import QUESTION, TOKENS

try:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
except ImportError:  # transformers 4, where the processor without torchvision has the plain name
    from transformers.models.blip.image_processing_blip import BlipImageProcessor as BlipImageProcessorPil

WORDS = ["<pad>", "</s>", "<unk>", "yes", "no", *"Does this figure show Please answer or a red blue".split()]
WORDS += ["circle", "square", "two", '"', "?", ".", "<image>"]
PLACE = len(WORDS) - 1
PROMPTS = [Prompt("a red circle"), Prompt("two " * 9 + "blue square"), Prompt("no")]
IMAGES = [image(0), image(1, (80, 50)), image(2, (40, 64))]
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def words(folder: Path) -> Path:
    """A tokenizer of whole words with T5's special tokens and the image's placeholder."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    fast.add_tokens(["<image>"], special_tokens=True)
    fast.save_pretrained(folder)
    return folder


def build(folder: Path, kind: str = "blip-2", **settings: Any) -> tuple[Path, Any]:
    """A random model of either class, in `folder` and in memory."""
    torch.manual_seed(0)
    instruct = kind == "instructblip"
    config_class, model_class = (
        (InstructBlipConfig, InstructBlipForConditionalGeneration)
        if instruct
        else (Blip2Config, Blip2ForConditionalGeneration)
    )
    t5 = T5Config(vocab_size=len(WORDS) + 5, tie_word_embeddings=False, decoder_start_token_id=0, **T5)
    options = {"text_config": t5, "num_query_tokens": 3, "image_token_index": PLACE} | settings
    vision = SMALL | {"image_size": 28, "patch_size": 14}
    qformer = SMALL | {"vocab_size": 57, "cross_attention_frequency": 1, "max_position_embeddings": 256}
    model = model_class(config_class(vision_config=vision, qformer_config=qformer, **options)).eval()
    # Larger than the usual beginning, so that image and words move the answer.
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(words(folder))
    if instruct:
        bert_tokenizer(folder / "qformer_tokenizer")
    return folder, model


def expected(folder: Path, model: Any, picture: Any, text: str) -> float:
    """One image alone, without padding, in float64 from the model that was saved."""
    model = model.double()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    question = QUESTION.format(text)
    pixels = BlipImageProcessorPil(size={"height": 28, "width": 28})(picture, return_tensors="pt")
    inputs = {
        "pixel_values": pixels["pixel_values"].double(),
        "input_ids": torch.tensor([[PLACE] * 3 + tokenizer(question)["input_ids"]]),
        "labels": torch.tensor([[WORDS.index("yes")]]),
    }
    if model.config.model_type == "instructblip":
        from transformers import AutoTokenizer

        asked = AutoTokenizer.from_pretrained(folder / "qformer_tokenizer")(question)["input_ids"]
        inputs["qformer_input_ids"] = torch.tensor([asked])
    with torch.inference_mode():
        # The loss of a single label is minus the logarithm of its probability.
        return float(model(**inputs).loss.neg().exp())


@pytest.mark.parametrize("kind", ["blip-2", "instructblip"])
def test_it_is_the_probability_of_yes_in_any_batch(kind, tmp_path):
    folder, model = build(tmp_path, kind)
    together = metrics.get("vqascore", checkpoint=folder, batch=3).score(IMAGES, PROMPTS)
    apart = metrics.get("vqascore", checkpoint=folder, batch=1).score(IMAGES, PROMPTS)
    assert together == pytest.approx(apart, rel=1e-4)
    wanted = [expected(folder, model, *pair) for pair in zip(IMAGES, [p.text for p in PROMPTS], strict=True)]
    assert together == pytest.approx(wanted, rel=1e-4) and together.dtype == np.float64
    assert ((together > 0) & (together < 1)).all()
    other = metrics.get("vqascore", checkpoint=folder).score(IMAGES[::-1], PROMPTS)
    assert (np.abs(other[[0, 2]] / together[[0, 2]] - 1) > 1e-2).all()  # the image counts
    other = metrics.get("vqascore", checkpoint=folder).score(IMAGES, PROMPTS[::-1])
    assert (np.abs(other[[0, 2]] / together[[0, 2]] - 1) > 1e-2).all()  # so does the prompt


def test_what_it_says_of_itself(tmp_path):
    folder, _ = build(tmp_path)
    metric = metrics.get("vqascore", checkpoint=folder)
    identity = metric.identity()
    assert identity["backend"] == "transformers.Blip2ForConditionalGeneration"
    assert identity["preprocess"].startswith("pil-bicubic-squash-28") and len(identity["sha256"]) == 64
    assert identity["question"] == QUESTION and "first token" in identity["formula"]
    asked = metrics.get("vqascore", checkpoint=folder, question="two {} ?")
    assert asked.identity() != identity
    assert asked.score(IMAGES, PROMPTS) != pytest.approx(metric.score(IMAGES, PROMPTS), rel=1e-3)
    assert metric.direction == "higher" and metric.score([], []).shape == (0,)
    with pytest.raises(UsageError, match="expected {} in it once"):
        metrics.get("vqascore", question="Is it good?")


def test_a_long_prompt_is_cut_and_the_question_keeps_its_end(tmp_path):
    folder, _ = build(tmp_path)
    metric = metrics.get("vqascore", checkpoint=folder)
    own = len('Does this figure show " "? Please answer yes or no . </s>'.split())
    left = TOKENS - own
    fits, over = Prompt("red " * left), Prompt("red " * left + "blue " * 40)
    assert metric.notes([fits, over]) == ["", f"prompt cut from {left + 40} to {left} tokens"]
    short, cut = metric.score([IMAGES[0]] * 2, [fits, over])
    assert cut == pytest.approx(short, rel=1e-5)
    with pytest.raises(UsageError, match="question alone has more than 128 tokens"):
        metrics.get("vqascore", checkpoint=folder, question="a " * 200 + "{}").score(IMAGES[:1], PROMPTS[:1])


def test_a_prompt_cannot_stand_for_the_image(tmp_path):
    folder, _ = build(tmp_path)
    prompts = [Prompt("a red <image> circle"), Prompt("a blue square")]
    plain = [Prompt("a red circle"), prompts[1]]
    metric = metrics.get("vqascore", checkpoint=folder)
    assert metric.score(IMAGES[:2], prompts) == pytest.approx(metric.score(IMAGES[:2], plain), rel=1e-5)


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def get(folder):
        return metrics.get("vqascore", checkpoint=folder)

    with pytest.raises(UsageError, match="is a 'clip' model, expected blip-2 or instructblip with a T5"):
        get(tiny_clip(tmp_path / "clip")).identity()
    opt = OPTConfig(hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=40)
    folder, _ = build(tmp_path / "opt", text_config=opt)
    with pytest.raises(UsageError, match="is a 'blip-2 with opt' model"):
        get(folder).score(IMAGES, PROMPTS)
    folder, _ = build(tmp_path / "old", image_token_index=None)
    with pytest.raises(UsageError, match="no image_token_index.*present revision"):
        get(folder).score(IMAGES, PROMPTS)
    folder, _ = build(tmp_path / "other")
    other, _ = build(tmp_path / "wide", num_query_tokens=4)
    (folder / "config.json").write_bytes((other / "config.json").read_bytes())
    with pytest.raises(UsageError, match="another architecture|cannot be loaded"):
        get(folder).score(IMAGES, PROMPTS)
    bert_tokenizer(tmp_path / "letters")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    for path in (tmp_path / "letters").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="no single token for 'yes' .*Flan-T5"):
        _ = get(folder)._answer
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeightsError, match="has no checkpoint in .*15.8 GB.*hf download Salesforce"):
        get(tmp_path / "empty").identity()
    with pytest.raises(MissingWeightsError, match="blip2-flan-t5-xl' .15.8 GB. is not .*hf download Sales"):
        metrics.get("vqascore").score(IMAGES, PROMPTS)
