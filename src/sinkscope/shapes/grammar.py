"""The prompt grammar of the shapes world: GenEval's six tasks, spoken about shapes, with a held-out split.

Templates, tags and metadata follow GenEval (`create_prompts.py`): the same words, articles and plural rule,
the same `include` / `exclude` clauses, with shapes in place of COCO classes. Some combinations are held out:
no training scene shows them and no training prompt names them (`is_held_out`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from sinkscope.shapes.painter import COLORS, SHAPES

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
COUNT_WORDS = ("zero", "one", "two", "three", "four")
MAX_COUNT = 4


@dataclass(frozen=True)
class Caption:
    """A prompt of the grammar with what a picture must show.

    Attributes:
        task: One of `TASKS`.
        text: The prompt.
        objects: (shape, colour or None) for every object asked for, in the order of the prompt.
        relation: "left of" and so on for task position, of object 0 to object 1; else None.
        count: How many of object 0, for task counting; else 1.
    """

    task: str
    text: str
    objects: tuple[tuple[str, str | None], ...]
    relation: str | None = None
    count: int = 1
    metadata: dict[str, Any] = field(default_factory=dict, compare=False)


def article(word: str) -> str:
    """GenEval's rule: "an" before a, e, i, o, u."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(word: str) -> str:
    """GenEval's rule: "es" after s, else "s"."""
    return word + ("es" if word.endswith("s") else "s")


def single(shape: str) -> Caption:
    """Return the caption "a photo of a SHAPE"."""
    include = [{"class": shape, "count": 1}]
    return _caption("single_object", f"a photo of {article(shape)}", ((shape, None),), include)


def two(first: str, second: str) -> Caption:
    """Return the caption "a photo of a FIRST and a SECOND"."""
    include = [{"class": first, "count": 1}, {"class": second, "count": 1}]
    text = f"a photo of {article(first)} and {article(second)}"
    return _caption("two_object", text, ((first, None), (second, None)), include)


def counting(shape: str, count: int) -> Caption:
    """Return the caption "a photo of N SHAPEs"; N + 1 of them is wrong."""
    noun = shape if count == 1 else plural(shape)
    include = [{"class": shape, "count": count}]
    exclude = [{"class": shape, "count": count + 1}]
    text = f"a photo of {COUNT_WORDS[count]} {noun}"
    return _caption("counting", text, ((shape, None),), include, exclude=exclude, count=count)


def colors(shape: str, color: str) -> Caption:
    """Return the caption "a photo of a COLOUR SHAPE"."""
    include = [{"class": shape, "count": 1, "color": color}]
    return _caption("colors", f"a photo of {article(color)} {shape}", ((shape, color),), include)


def position(first: str, relation: str, second: str) -> Caption:
    """Return the caption "a photo of a FIRST RELATION a SECOND"."""
    include = [{"class": second, "count": 1}, {"class": first, "count": 1, "position": [relation, 0]}]
    text = f"a photo of {article(first)} {relation} {article(second)}"
    return _caption("position", text, ((first, None), (second, None)), include, relation=relation)


def color_attr(first: str, first_color: str, second: str, second_color: str) -> Caption:
    """Return the caption "a photo of a COLOUR FIRST and a COLOUR SECOND"."""
    include = [
        {"class": first, "count": 1, "color": first_color},
        {"class": second, "count": 1, "color": second_color},
    ]
    text = f"a photo of {article(first_color)} {first} and {article(second_color)} {second}"
    return _caption("color_attr", text, ((first, first_color), (second, second_color)), include)


def _caption(
    task: str,
    text: str,
    objects: tuple[tuple[str, str | None], ...],
    include: list[dict[str, Any]],
    *,
    exclude: list[dict[str, Any]] | None = None,
    relation: str | None = None,
    count: int = 1,
) -> Caption:
    metadata: dict[str, Any] = {"tag": task, "include": include, "prompt": text}
    if exclude:
        metadata["exclude"] = exclude
    return Caption(task, text, objects, relation, count, metadata)


def pair_held_out(shape: str, color: str) -> bool:
    """Whether a shape of that colour never occurs in training (8 of 80 pairs)."""
    return (3 * SHAPES.index(shape) + COLORS.index(color)) % 10 == 7


def is_held_out(caption: Caption) -> bool:
    """Whether a caption is held out: about one combination in ten, by a fixed rule per task."""
    first = SHAPES.index(caption.objects[0][0])
    second = SHAPES.index(caption.objects[-1][0])
    if caption.task == "two_object":
        return (5 * first + 3 * second) % 9 == 4
    if caption.task == "counting":
        return (first + 3 * caption.count) % 8 == 5
    if caption.task == "position":
        return (first + 3 * second + 2 * RELATIONS.index(str(caption.relation))) % 10 == 6
    return any(color is not None and pair_held_out(shape, color) for shape, color in caption.objects)


def every(task: str) -> Iterator[Caption]:
    """Return all captions of a task, in a fixed order (color_attr has 5,040; single_object 8)."""
    if task == "single_object":
        yield from map(single, SHAPES)
    elif task == "two_object":
        yield from (two(a, b) for a, b in permutations(SHAPES, 2))
    elif task == "counting":
        yield from (counting(shape, n) for shape in SHAPES for n in range(1, MAX_COUNT + 1))
    elif task == "colors":
        yield from (colors(shape, color) for shape in SHAPES for color in COLORS)
    elif task == "position":
        yield from (position(a, rel, b) for a, b in permutations(SHAPES, 2) for rel in RELATIONS)
    elif task == "color_attr":
        for a, b in permutations(SHAPES, 2):
            yield from (color_attr(a, c, b, d) for c, d in permutations(COLORS, 2))


def sample(rng: np.random.Generator, task: str) -> Caption:
    """Draw one caption of the training split."""
    pool = _training_pool(task)
    return pool[int(rng.integers(len(pool)))]


_POOLS: dict[str, list[Caption]] = {}


def _training_pool(task: str) -> list[Caption]:
    if task not in _POOLS:
        _POOLS[task] = [caption for caption in every(task) if not is_held_out(caption)]
    return _POOLS[task]
