"""Short texts about scenes of shapes, from a grammar: what the embedded language models read.

A story tells of three to five objects on a grid of three by three, each with a shape and a colour of its own
and a size. It introduces them one by one and says true things about those it has introduced, some of them as
questions with answers, so that much of what comes later follows from what was said before. Words are
separated by blanks; `.` and `?` are words. All stories are cut to the same number of words, as language
models cut their texts into windows, so no batch holds padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sinkscope.shapes.painter import COLORS, SHAPES

WORDS = 63
"""Words of a story; with the begin mark before them 64 tokens."""
RELATIONS = ("left of", "right of", "above", "below")
SIZES = ("small", "large")
COUNTS = ("two", "three", "four", "five")
KEPT_FOR_TESTS = 2**32
"""Seeds from here on are never trained on."""
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    shape: str
    color: str
    size: str
    row: int
    column: int

    @property
    def named(self) -> str:
        """Size aside, what introduces it: "red circle"."""
        return f"{self.color} {self.shape}"


def story(seed: int, words: int = WORDS) -> str:
    """One story, the same for the same seed.

    Args:
        seed: A whole number from 0; from `KEPT_FOR_TESTS` on for texts that no model was trained on.
        words: How many words.
    """
    rng = np.random.default_rng(seed)
    things = _scene(rng)
    told: list[str] = []
    known: list[Thing] = []
    while len(told) < words:
        if len(known) < len(things) and (len(known) < 2 or rng.random() < 0.35):
            thing = things[len(known)]
            told += _introduced(thing, known, rng).split()
            known.append(thing)
        else:
            told += _FACTS[int(rng.integers(len(_FACTS)))](known, rng).split()
    return " ".join(told[:words])


def vocabulary() -> list[str]:
    """Every word a story can hold, in a fixed order."""
    plain = (
        "a above an and are below both color how is large left many not of or right same shape shapes size "
        "small the there which"
    ).split()
    return list(dict.fromkeys([".", "?", *plain, *COUNTS, *SHAPES, *COLORS]))


def _scene(rng: np.random.Generator) -> list[Thing]:
    count = int(rng.integers(3, 6))
    shapes = rng.choice(len(SHAPES), count, replace=False)
    colors = rng.choice(len(COLORS), count, replace=False)
    cells = rng.choice(9, count, replace=False)
    sizes = rng.integers(2, size=count)
    return [
        Thing(SHAPES[s], COLORS[c], SIZES[z], int(cell) // 3, int(cell) % 3)
        for s, c, z, cell in zip(shapes, colors, sizes, cells, strict=True)
    ]


def _one(things: list[Thing], rng: np.random.Generator) -> Thing:
    return things[int(rng.integers(len(things)))]


def _two(things: list[Thing], rng: np.random.Generator) -> tuple[Thing, Thing]:
    first, second = rng.choice(len(things), 2, replace=False)
    return things[int(first)], things[int(second)]


def relation(one: Thing, other: Thing, rng: np.random.Generator) -> str:
    """A true relation of two things, drawn where several are true."""
    true = []
    if one.column != other.column:
        true.append("left of" if one.column < other.column else "right of")
    if one.row != other.row:
        true.append("above" if one.row < other.row else "below")
    return true[int(rng.integers(len(true)))]


def _an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _introduced(thing: Thing, known: list[Thing], rng: np.random.Generator) -> str:
    way = int(rng.integers(4)) if known else int(rng.integers(2))
    if way == 0:
        return f"there is {_an(thing.named)} ."
    if way == 1:
        return f"there is {_an(thing.size)} {thing.named} ."
    other = _one(known, rng)
    if way == 2:
        return f"{_an(thing.named)} is {relation(thing, other, rng)} the {other.shape} ."
    return f"{relation(thing, other, rng)} the {other.shape} there is {_an(thing.named)} ."


def _color(known: list[Thing], rng: np.random.Generator) -> str:
    thing = _one(known, rng)
    return f"the {thing.shape} is {thing.color} ."


def _not_color(known: list[Thing], rng: np.random.Generator) -> str:
    one, other = _two(known, rng)
    return f"the {one.shape} is not {other.color} ."


def _size(known: list[Thing], rng: np.random.Generator) -> str:
    thing = _one(known, rng)
    return f"the {thing.shape} is {thing.size} ."


def _same_size(known: list[Thing], rng: np.random.Generator) -> str:
    one, other = _two(known, rng)
    if one.size == other.size:
        return f"the {one.shape} and the {other.shape} are both {one.size} ."
    return f"the {one.shape} and the {other.shape} are not the same size ."


def _where(known: list[Thing], rng: np.random.Generator) -> str:
    one, other = _two(known, rng)
    return f"the {one.shape} is {relation(one, other, rng)} the {other.shape} ."


def _reversed(known: list[Thing], rng: np.random.Generator) -> str:
    """The same relation said from both sides: the second half follows from the first."""
    one, other = _two(known, rng)
    said = relation(one, other, rng)
    back = _OPPOSITE[said]
    return f"the {one.shape} is {said} the {other.shape} and the {other.shape} is {back} the {one.shape} ."


def _which_color(known: list[Thing], rng: np.random.Generator) -> str:
    thing = _one(known, rng)
    return f"which color is the {thing.shape} ? {thing.color} ."


def _which_shape(known: list[Thing], rng: np.random.Generator) -> str:
    thing = _one(known, rng)
    return f"which shape is {thing.color} ? the {thing.shape} ."


def _which_size(known: list[Thing], rng: np.random.Generator) -> str:
    thing = _one(known, rng)
    return f"is the {thing.shape} small or large ? {thing.size} ."


def _how_many(known: list[Thing], rng: np.random.Generator) -> str:
    return f"how many shapes are there ? {COUNTS[len(known) - 2]} ."


_FACTS: tuple[Callable[[list[Thing], np.random.Generator], str], ...] = (
    _color,
    _not_color,
    _size,
    _same_size,
    _where,
    _reversed,
    _which_color,
    _which_shape,
    _which_size,
    _how_many,
)
