import numpy as np
import pytest

from sinkscope.shapes.grammar import (
    COUNT_WORDS,
    TASKS,
    color_attr,
    colors,
    counting,
    every,
    is_held_out,
    pair_held_out,
    position,
    sample,
)
from sinkscope.shapes.painter import COLORS, SHAPES
from sinkscope.shapes.scenes import compose, draw


def test_captions_read_as_genevals_do() -> None:
    assert colors("star", "orange").text == "a photo of an orange star"
    assert counting("cross", 3).text == "a photo of three crosses"
    assert counting("cross", 1).text == "a photo of one cross"
    assert position("circle", "left of", "heart").metadata["include"] == [
        {"class": "heart", "count": 1},
        {"class": "circle", "count": 1, "position": ["left of", 0]},
    ]
    assert color_attr("ring", "red", "star", "blue").text == "a photo of a red ring and a blue star"
    assert counting("star", 2).metadata["exclude"] == [{"class": "star", "count": 3}]


@pytest.mark.parametrize("task", TASKS)
def test_captions_of_a_task_are_distinct(task: str) -> None:
    texts = [caption.text for caption in every(task)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task", TASKS[1:])
def test_about_a_tenth_is_held_out_and_never_sampled(task: str) -> None:
    captions = list(every(task))
    share = np.mean([is_held_out(caption) for caption in captions])
    assert 0.05 < share < 0.2
    rng = np.random.default_rng(0)
    assert not any(is_held_out(sample(rng, task)) for _ in range(300))


def test_training_scenes_never_show_a_held_out_pair() -> None:
    _, scenes = draw(600, np.random.default_rng(1))
    shown = {(s, c) for s, c in zip(scenes.shape.ravel(), scenes.color.ravel(), strict=True) if s >= 0}
    assert not any(pair_held_out(SHAPES[s], COLORS[c]) for s, c in shown)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_scenes_have_as_many_objects_as_counted(count: int) -> None:
    caption = counting("heart", count)
    assert COUNT_WORDS[count] in caption.text
    scenes = compose([caption] * 5, np.random.default_rng(2))
    assert ((scenes.shape >= 0).sum(axis=1) == count).all()
    assert (scenes.center[:, :count] > 0).all()
