"""GenEval's 553 prompts, generated: the same random draws as its `create_prompts.py`, none of its files.

One `numpy.random.default_rng(43)` serves the six tasks in their order; 100 prompts are drawn per task (all 80
classes for single_object) and repeats within a task are dropped, which leaves 80, 99, 80, 94, 100 and 100.
NumPy may change its streams in a later version (NEP 19), so the result is checked against the SHA-256 of
GenEval's prompt list every time it is made.

GenEval: Ghosh et al. 2023, "GenEval: An object-focused framework for evaluating text-to-image alignment".
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import chain

import numpy as np

from sinkscope.errors import SinkscopeError
from sinkscope.prompts._draw import keyed
from sinkscope.prompts._record import PromptRecord
from sinkscope.shapes import grammar
from sinkscope.shapes.grammar import Caption

SEED = 43
DRAWS = 100
SHA256 = "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"
"""Of the prompts, one per line, each ended by a newline."""

BALANCED = {
    "single_object": 20,
    "two_object": 20,
    "counting": 15,
    "colors": 15,
    "position": 15,
    "color_attr": 15,
}
"""Prompts per task of the paper's subset of 100."""

# The 80 COCO classes in COCO's order, with GenEval's renames (computer mouse, tv remote, computer keyboard).
# "person" must stay first: two tasks leave it out by its index.
_CLASSES = tuple(
    (
        "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
        "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, "
        "backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
        "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, "
        "knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, "
        "chair, couch, potted plant, bed, dining table, toilet, tv, laptop, computer mouse, tv remote, "
        "computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, "
        "scissors, teddy bear, hair drier, toothbrush"
    ).split(", ")
)
_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_RELATIONS = ("left of", "right of", "above", "below")


def geneval() -> list[PromptRecord]:
    """Return GenEval's 553 prompts in the order of its files.

    `metadata` is the object of GenEval's `evaluation_metadata.jsonl`: tag, include, exclude (counting only),
    prompt.

    Raises:
        SinkscopeError: This NumPy draws other numbers than the one GenEval was made with.
    """
    return [
        PromptRecord(f"geneval-{index:04d}", made.text, made.task, copy.deepcopy(made.metadata))
        for index, made in enumerate(_captions())
    ]


def geneval_balanced(seed: int = 0) -> list[PromptRecord]:
    """Return 100 of GenEval's prompts, as many per task as in the paper's subset (`BALANCED`), shuffled.

    Which prompts they are is our own draw, keyed by the seed: the script that drew the authors' subset was
    not released.
    """
    everything = geneval()
    chosen = [
        record
        for task, count in BALANCED.items()
        for record in keyed([record for record in everything if record.task == task], seed)[:count]
    ]
    return keyed(chosen, seed, "balanced")


@lru_cache(maxsize=1)
def _captions() -> tuple[Caption, ...]:
    rng = np.random.default_rng(SEED)
    tasks = (_single_object, _two_object, _counting, _colors, _position, _color_attr)
    made = tuple(chain.from_iterable(_first_of_each(task(rng)) for task in tasks))
    check_listing(caption.text for caption in made)
    return made


def check_listing(prompts: Iterable[str]) -> None:
    """Refuse prompts that are not exactly GenEval's, in GenEval's order.

    Raises:
        SinkscopeError: Their SHA-256 differs.
    """
    found = hashlib.sha256("".join(f"{prompt}\n" for prompt in prompts).encode()).hexdigest()
    if found != SHA256:
        raise SinkscopeError(
            f"GenEval's prompts cannot be generated here: NumPy {np.__version__} draws other numbers than "
            f"the one they were made with (SHA-256 of the prompt list {found[:12]}..., expected "
            f"{SHA256[:12]}...). Install another NumPy (2.4.6 is known to work), or load GenEval's own "
            "evaluation_metadata.jsonl by its path."
        )


def _first_of_each(drawn: Iterable[Caption]) -> list[Caption]:
    return list({caption.text: caption for caption in drawn}.values())


def _single_object(rng: np.random.Generator) -> list[Caption]:
    return [grammar.single(_CLASSES[i]) for i in rng.choice(len(_CLASSES), len(_CLASSES), replace=False)]


def _repeat(draw: Callable[[], Caption]) -> list[Caption]:
    return [draw() for _ in range(DRAWS)]


def _two_object(rng: np.random.Generator) -> list[Caption]:
    def draw() -> Caption:
        first, second = rng.choice(len(_CLASSES), 2, replace=False)
        return grammar.two(_CLASSES[first], _CLASSES[second])

    return _repeat(draw)


def _counting(rng: np.random.Generator) -> list[Caption]:
    def draw() -> Caption:
        name = _CLASSES[rng.choice(len(_CLASSES))]
        return grammar.counting(name, int(rng.integers(2, 4, endpoint=True)))

    return _repeat(draw)


def _colors(rng: np.random.Generator) -> list[Caption]:
    def draw() -> Caption:
        name = _CLASSES[rng.choice(len(_CLASSES) - 1) + 1]
        return grammar.colors(name, _COLORS[rng.choice(len(_COLORS))])

    return _repeat(draw)


def _position(rng: np.random.Generator) -> list[Caption]:
    def draw() -> Caption:
        first, second = rng.choice(len(_CLASSES), 2, replace=False)
        return grammar.position(_CLASSES[first], _RELATIONS[rng.choice(len(_RELATIONS))], _CLASSES[second])

    return _repeat(draw)


def _color_attr(rng: np.random.Generator) -> list[Caption]:
    def draw() -> Caption:
        first, second = rng.choice(len(_CLASSES) - 1, 2, replace=False) + 1
        one, other = rng.choice(len(_COLORS), 2, replace=False)
        return grammar.color_attr(_CLASSES[first], _COLORS[one], _CLASSES[second], _COLORS[other])

    return _repeat(draw)
