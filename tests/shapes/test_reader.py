import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sinkscope.shapes.grammar import TASKS, color_attr, colors, counting, every, position, two
from sinkscope.shapes.painter import COLORS, SHAPES, paint
from sinkscope.shapes.reader import SceneObject, judge, judge_scene, read, relations
from sinkscope.shapes.scenes import compose, draw


def images(captions: list, seed: int) -> list[Image.Image]:
    scenes = compose(captions, np.random.default_rng(seed))
    return [Image.fromarray(image) for image in paint(scenes)]


def test_ground_truth_is_read_right() -> None:
    captions, scenes = draw(300, np.random.default_rng(3))
    jitter = np.random.default_rng(4).normal(0, 3, size=(300, 4, 3)).astype(np.float32)
    right = 0
    for i, image in enumerate(paint(scenes, jitter=jitter)):
        seen = sorted((item.shape, item.color) for item in read(Image.fromarray(image)).objects)
        told = sorted(
            (SHAPES[s], COLORS[c]) for s, c in zip(scenes.shape[i], scenes.color[i], strict=True) if s >= 0
        )
        right += seen == told and judge(Image.fromarray(image), captions[i].metadata).correct
    assert right >= 0.995 * 300


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(TASKS), st.integers(0, 10_000), st.data())
def test_a_picture_of_another_caption_is_judged_wrong(task: str, seed: int, data: st.DataObject) -> None:
    pool = [c for c in every(task) if c.task != "single_object"] or [colors("star", "red")]
    asked = data.draw(st.sampled_from(pool))
    if asked.task == "counting":
        shown = counting(asked.objects[0][0], asked.count % 4 + 1)
    elif asked.task == "position":
        (a, _), (b, _) = asked.objects
        opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
        shown = position(a, opposite[str(asked.relation)], b)
    elif asked.task == "two_object":
        (a, _), (b, _) = asked.objects
        shown = two(a, next(s for s in SHAPES if s not in (a, b)))
    elif asked.task == "colors":
        shape, color = asked.objects[0]
        shown = colors(shape, next(c for c in COLORS if c != color))
    else:
        (a, c), (b, d) = asked.objects
        shown = color_attr(a, str(d), b, str(c))  # colours swapped: the binding is wrong
    (image,) = images([shown], seed)
    assert judge(image, shown.metadata).correct
    verdict = judge(image, asked.metadata)
    assert not verdict.correct and verdict.reason


def thing(x: float, y: float, shape: str = "circle", size: float = 10.0) -> SceneObject:
    box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return SceneObject(shape, "red", (x, y), box, size * size, 1.0)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (10, 32, {"left of"}),
        (54, 32, {"right of"}),
        (32, 10, {"above"}),
        (32, 54, {"below"}),
        (33, 33, set()),
        (10, 10, {"left of", "above"}),
    ],
)
def test_relations_follow_genevals_rule(x: float, y: float, expected: set[str]) -> None:
    assert relations(thing(x, y), thing(32, 32)) == expected


def test_empty_and_foreign_images_are_read_as_nothing_or_unknown() -> None:
    grey = Image.new("RGB", (64, 64), (160, 160, 160))
    assert read(grey).objects == ()
    assert not judge(grey, colors("star", "red").metadata).correct
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    assert all(item.shape == "unknown" for item in read(noise).objects)


def test_larger_images_are_read_at_64_pixels() -> None:
    (image,) = images([colors("heart", "blue")], 1)
    seen = read(image.resize((256, 256), Image.Resampling.NEAREST)).objects
    assert [(item.shape, item.color) for item in seen] == [("heart", "blue")]


def test_surplus_objects_only_matter_for_counting() -> None:
    scene = read(images([counting("star", 3)], 5)[0])
    assert judge_scene(scene, counting("star", 3).metadata).correct
    assert not judge_scene(scene, counting("star", 2).metadata).correct
    assert judge_scene(
        scene, next(c for c in every("single_object") if c.text.endswith("star")).metadata
    ).correct
