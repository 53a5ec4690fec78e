"""The detector is MMDetection's, pixels are OpenCV's, and the metric says what it cannot judge."""

from __future__ import annotations

import hashlib
import json
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.metrics.helpers import Prompt, tiny_clip
from tests.metrics.peer_cases import fill
from tests.metrics.resize_cases import CASES, noise

from sinkscope import metrics, stats
from sinkscope.errors import MissingWeightsError, UsageError
from sinkscope.metrics import score_rows
from sinkscope.metrics.convert import _mask2former, convert
from sinkscope.metrics.geneval import COLORS, Found
from sinkscope.metrics.geneval._colors import ColorClassifier, crop
from sinkscope.metrics.geneval._detector import Detector, fit, network_input
from sinkscope.metrics.geneval._instances import instances
from sinkscope.metrics.geneval._names import CLASSES
from sinkscope.metrics.geneval._resize import resize_linear

PEER = json.loads(Path(__file__).with_name("geneval_peer.json").read_text())
DOG = {"include": [{"class": "dog", "count": 1}], "tag": "single_object"}


def picture(index: int) -> Image.Image:
    width, height = PEER["pictures"][index]
    blocks = (
        np.random.RandomState(index).randint(0, 256, (height // 3 + 1, width // 3 + 1, 3)).astype(np.uint8)
    )
    return Image.fromarray(blocks.repeat(3, axis=0).repeat(3, axis=1)[:height, :width])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A converted detector of small weights."""
    home = tmp_path_factory.mktemp("detector")
    meta = {"CLASSES": ("person",), "epoch": 50, "PALETTE": [(220, 20, 60)]}
    torch.save({"meta": meta, "state_dict": fill(PEER["shapes"])}, home / "released.pth")
    return convert("geneval", [home / "released.pth"], home / "made")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


# ---- the detector


@pytest.mark.parametrize("name", CASES)
def test_resizing_is_that_of_opencv_to_the_last_bit(name):
    source, target = CASES[name]
    image = resize_linear(noise(*source), *target)
    assert image.shape == (target[1], target[0], 3)
    assert hashlib.sha256(image.tobytes()).hexdigest() == PEER["resized"][name]


def test_an_image_of_the_right_size_is_copied():
    image = noise(5, 4)
    same = resize_linear(image, 5, 4)
    assert np.array_equal(image, same) and not np.shares_memory(image, same)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (800, 800)),
        ((1024, 1024), (800, 800)),
        ((1344, 768), (1333, 762)),
        ((640, 427), (1199, 800)),
    ],
)
def test_images_fit_1333_by_800(size, expected):
    assert fit(*size) == expected


def test_padding_is_grey_before_normalisation():
    values, (height, width) = network_input(Image.new("RGB", (300, 12), (0, 255, 7)))
    assert (height, width) == (53, 1333) and values.shape == (1, 3, 64, 1344)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    assert values[0, :, 10, 10].numpy() == pytest.approx((np.array([0, 255, 7]) - mean) / std, abs=1e-5)
    for corner in (values[0, :, 60, 10], values[0, :, 10, 1340]):
        assert corner.numpy() == pytest.approx((128 - mean) / std, abs=1e-5)


def test_detections_are_those_of_mmdetection(folder):
    detector = Detector(folder, device="cpu", download=False)
    for index, expected in enumerate(PEER["detections"]):
        found = detector(picture(index), floor=-1.0)
        rows = [
            [CLASSES.index(name), *(int(side) for side in item.box), item.score, int(item.mask.sum())]
            for name, items in found.items()
            for item in items
        ]
        assert len(rows) == len(expected) == 100
        for ours, theirs in zip(sorted(rows), sorted(expected), strict=True):
            assert ours[:5] == theirs[:5] and ours[6] == theirs[6]
            assert ours[5] == pytest.approx(theirs[5], abs=1e-6)


def test_the_layout_of_mmdetection_3_gives_the_same_tensors():
    two = fill(PEER["shapes"])
    three = {}
    for name, value in two.items():
        if ".transformer_decoder.layers." in name:
            name = name.replace("attentions.0.", "cross_attn.").replace("attentions.1.", "self_attn.")
        name = name.replace("attentions.0.", "self_attn.").replace("ffns.0.", "ffn.")
        three[name] = value
    assert set(three) != set(two)
    renamed, expected = _mask2former.rename(three), _mask2former.rename(two)
    assert renamed.keys() == expected.keys()
    assert all(torch.equal(renamed[name], expected[name]) for name in expected)
    assert _mask2former.config_of(three) == _mask2former.config_of(two)


def test_instances_against_a_plain_loop():
    draw = torch.Generator().manual_seed(0)
    classes, masks = 3 * torch.randn(5, 4, generator=draw), torch.randn(5, 6, 8, generator=draw)
    masks[3] = -5.0  # never inside
    sizes = {"padded": (24, 32), "resized": (20, 30), "original": (41, 53)}
    found = instances(classes, masks, **sizes)
    expected = []
    for query in range(5):
        big = torch.nn.functional.interpolate(masks[None, query : query + 1], (24, 32), mode="bilinear")
        mask = torch.nn.functional.interpolate(big[:, :, :20, :30], (41, 53), mode="bilinear")[0, 0].double()
        inside = mask > 0
        mean = mask.sigmoid()[inside].mean().item() if inside.any() else 0.0
        ys, xs = np.nonzero(inside.numpy())
        box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]
        for kind, chance in enumerate(classes[query].double().softmax(0)[:-1].tolist()):
            expected.append((kind, chance * mean, [float(side) for side in box], int(inside.sum())))
    ours = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), found.masks, strict=True)
    rows = sorted((kind, score, box, int(mask.sum())) for kind, score, box, mask in ours)
    assert len(rows) == len(expected) == 15
    for got, want in zip(rows, sorted(expected), strict=True):
        assert (got[0], got[2], got[3]) == (want[0], want[2], want[3])
        assert got[1] == pytest.approx(want[1], abs=1e-5)


@pytest.mark.parametrize("floor", [0.05, 0.3])
def test_a_floor_leaves_out_only_what_cannot_count(floor):
    draw = torch.Generator().manual_seed(1)
    classes, masks = 2 * torch.randn(9, 6, generator=draw), torch.randn(9, 6, 8, generator=draw)
    sizes = {"padded": (24, 32), "resized": (24, 32), "original": (24, 32)}
    every, some = instances(classes, masks, **sizes), instances(classes, masks, **sizes, floor=floor)
    assert len(some.scores) < len(every.scores)
    kept = lambda found: sorted(score for score in found.scores.tolist() if score > floor)  # noqa: E731
    assert kept(some) == kept(every)


def test_nothing_found_is_no_object():
    classes = torch.tensor([[0.0, 0.0, 50.0]])
    found = instances(
        classes, torch.zeros(1, 4, 4), padded=(8, 8), resized=(8, 8), original=(8, 8), floor=0.3
    )
    assert found.masks.shape == (0, 8, 8) and len(found.scores) == 0


# ---- colours


def test_a_crop_is_the_object_on_grey():
    image = Image.new("RGB", (6, 5), (200, 10, 10))
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:3, 2:5] = True
    mask[1, 2] = False
    cut = crop(image, Found(np.array([2, 1, 5, 3], np.float32), 0.9, mask))
    assert cut.size == (3, 2)
    assert cut.getpixel((0, 0)) == (153, 153, 153) and cut.getpixel((1, 1)) == (200, 10, 10)


def test_colours_are_the_nearest_mean_of_three_sentences(clip):
    classify = ColorClassifier(clip, batch=2, device="cpu", download=False)
    pictures = [picture(0).resize((40, 40)), picture(1).resize((30, 50))]
    whole = [Found(np.array([0, 0, *image.size], np.float32), 0.9) for image in pictures]
    metric = metrics.get("clip_t", checkpoint=clip)
    for image, item in zip(pictures, whole, strict=True):
        logits = []
        for color in COLORS:
            texts = [
                f"a photo of a {color} dog",
                f"a photo of a {color}-colored dog",
                f"a photo of a {color} object",
            ]
            with torch.inference_mode():
                words = metric._encode(texts).double().mean(0)
                logits.append(100 * float(metric._image_features([image])[0].double() @ words / words.norm()))
        assert classify.logits([crop(image, item)], "dog")[0].tolist() == pytest.approx(logits, abs=1e-3)
        assert classify(image, "dog", [item]) == [COLORS[int(np.argmax(logits))]]
    assert classify(pictures[0], "dog", []) == []


# ---- the metric


def test_images_are_judged_one_by_one_whatever_the_batch(folder, clip):
    metric = metrics.get("geneval", checkpoint=folder, clip=clip, threshold=0.0)
    found = metric.detector(picture(0), floor=0.0)
    name = max(found, key=lambda name: len(found[name]))
    asked = [
        Prompt(f"a {name}", metadata={"include": [{"class": name, "count": 1}]}),
        Prompt("many", metadata={"include": [{"class": name, "count": len(found[name]) + 1}]}),
        Prompt("none", metadata={**DOG, "exclude": [{"class": name, "count": 1}]}),
        Prompt(
            "color", metadata={"include": [{"class": name, "count": 1, "color": color} for color in COLORS]}
        ),
    ]
    judged = metric.judgements([picture(0)] * 4, asked)
    assert [found.correct for found in judged] == [True, False, False, False]
    assert judged[1].reason == f"expected {name}>={len(found[name]) + 1}, found {len(found[name])}"
    assert judged[3].reason.count("expected") == 9  # the most confident has one colour
    assert metric.score([picture(0)] * 4, asked).tolist() == [1, 0, 0, 0]
    # The published threshold finds nothing in noise.
    plain = metrics.get("geneval", checkpoint=folder, clip=clip)
    assert plain.score([picture(0)], asked[:1]).tolist() == [0.0]


def test_prompts_without_clauses_get_a_row_that_says_so(folder, clip):
    metric = metrics.get("geneval", checkpoint=folder, clip=clip)
    prompts = [
        Prompt("a dog", metadata=DOG),
        Prompt("a story"),
        Prompt("a circle", metadata={"include": [{"class": "circle", "count": 1}]}),
    ]
    table = score_rows(metric, [picture(0)] * 3, prompts)
    assert table["value"].tolist()[0] == 0.0 and table["value"].isna().tolist() == [False, True, True]
    assert table["status"][1] == (
        "prompt 'a story' has no 'include' clauses for geneval to judge by. Use the prompts 'geneval', or "
        "another metric."
    )
    assert "asks for 'circle', which is none of the detector's 80 classes" in table["status"][2]


def test_weights_that_are_not_the_released_ones_are_called_an_approximation(folder, clip):
    metric = metrics.get("geneval", checkpoint=folder, clip=clip)
    identity = metric.identity()
    assert identity["official"] is False and identity["rules"]["counting_threshold"] == 0.9
    assert identity["source"][0]["file"] == "released.pth" and "cv2" in identity["preprocess"]
    table = score_rows(metric, [picture(0)], [Prompt("a dog", metadata=DOG)])
    assert table["note"].tolist() == [f"approximation: detector {folder}"]


def test_missing_weights_are_all_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKSCOPE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    metric = metrics.get("geneval", clip=tmp_path)
    with pytest.raises(MissingWeightsError) as caught:
        metric.identity()
    message = str(caught.value)
    assert str(tmp_path / "geneval-detector" / "model.safetensors") in message and "280 MB" in message
    assert "curl -fLO https://download.openmmlab.com/mmdetection/v2.0/mask2former/" in message
    assert "sinkscope convert geneval mask2former_swin-s" in message
    assert f"'geneval' has no checkpoint in {tmp_path}" in message


def test_the_overall_score_of_the_documentation_is_the_mean_of_tasks():
    page = (Path(__file__).parents[2] / "docs" / "geneval.md").read_text()
    (body,) = [part.partition("```")[0] for part in page.split("```python\n") if "def overall" in part]
    space: dict = {}
    exec(body, space)
    draw, rows = np.random.default_rng(0), []
    for index, task in enumerate(["single_object"] * 8 + ["counting"] * 3 + ["position"] * 5):
        for seed in (0, 1):
            for arm in ("baseline", "edit"):
                unit = {"unit": f"{index}-{seed}", "prompt_id": str(index), "task": task, "seed": seed}
                score = {"arm": arm, "metric": "geneval", "value": float(draw.integers(0, 2)), "status": "ok"}
                rows.append(unit | score)
    scores = pd.DataFrame(rows)
    contrasts = [stats.Contrast("edit", "baseline", "arm-baseline")]
    table = stats.effects(scores, contrasts=contrasts, metrics=["geneval"], draws=100)
    found = space["overall"](types.SimpleNamespace(effects=lambda: table))
    edited = scores[scores["arm"] == "edit"]
    assert found["edit"] == pytest.approx(edited.groupby("task").value.mean().mean())
    assert found["edit"] != pytest.approx(edited.value.mean())


def test_other_files_are_not_converted(tmp_path):
    torch.save({"state_dict": {"conv.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"other.pth has no tensor .* it is not MMDetection's Mask2Former"):
        convert("geneval", [tmp_path / "other.pth"], tmp_path / "made")
    torch.save({"state_dict": {**fill(PEER["shapes"]), "rpn.weight": torch.zeros(2)}}, tmp_path / "more.pth")
    with pytest.raises(UsageError, match="Tensor 'rpn.weight' is not part of Mask2Former"):
        convert("geneval", [tmp_path / "more.pth"], tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_another_architecture_is_refused(clip):
    metric = metrics.get("geneval", checkpoint=clip, clip=clip)
    with pytest.raises(
        UsageError, match="is a 'clip' model of .* classes, expected 'mask2former' with the 80"
    ):
        metric.score([picture(0)], [Prompt("a dog", metadata=DOG)])
