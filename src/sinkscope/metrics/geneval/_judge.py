"""GenEval's rules: which detections count, and whether they show what a prompt asks for.

No network, no image: colours come from a function. Rules and words follow `evaluate_images.py` of GenEval
(Ghosh et al. 2023, section 3); numbers are float32 there and here, so that ties fall alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sinkscope.errors import UsageError

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
COUNTING = "counting"
"""The task whose detections must pass the higher threshold."""


class Found(NamedTuple):
    """One object."""

    box: NDArray[np.float32]
    """left, top, right, bottom in pixels, right and bottom exclusive."""
    score: float
    """Confidence, 0 to 1."""
    mask: NDArray[np.bool_] | None = None
    """`[height, width]`; None where there is none."""


ColorsOf = Callable[[str, Sequence[Found]], Sequence[str]]
"""Class and objects -> a colour each."""


class Judgement(NamedTuple):
    """Whether an image shows what its prompt asks for."""

    correct: bool
    reason: str
    """What is wrong, one line per fault in GenEval's words; empty where nothing is."""


@dataclass(frozen=True)
class Rules:
    """GenEval's settings; the defaults are the published ones."""

    threshold: float = 0.3
    """A detection counts above this confidence."""
    counting_threshold: float = 0.9
    """The same for prompts of the task "counting"."""
    max_objects: int = 16
    """The most confident detections of a class that are looked at."""
    max_overlap: float = 1.0
    """A detection is dropped where it overlaps a more confident one of its class this much (intersection over
    union) or more; 1 drops none."""
    position_threshold: float = 0.1
    """Share of both objects' sizes that a distance must exceed to be a direction."""

    def __post_init__(self) -> None:
        for name in ("threshold", "counting_threshold", "max_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"Got {name}={getattr(self, name)}, expected a number from 0 to 1.")
        if self.max_objects < 1:
            raise UsageError(f"Got max_objects={self.max_objects}, expected at least 1.")
        if self.position_threshold < 0:
            raise UsageError(f"Got position_threshold={self.position_threshold}, expected 0 or more.")

    def least(self, task: str) -> float:
        """Threshold of a task."""
        return self.counting_threshold if task == COUNTING else self.threshold


def keep(
    detections: Mapping[str, Sequence[Found]], task: str, rules: Rules = Rules()
) -> dict[str, list[Found]]:
    """Return the detections that count, by class, the most confident first; no class without any."""
    kept = {}
    for name, found in detections.items():
        scores = np.array([item.score for item in found], dtype=np.float32)
        # Ties: the later one first, as a reversed ascending sort gives them.
        order = [
            i for i in np.argsort(scores, kind="stable")[::-1] if scores[i] > np.float32(rules.least(task))
        ]
        chosen: list[Found] = []
        for index in order[: rules.max_objects]:
            item = found[index]
            if rules.max_overlap == 1 or all(overlap(o.box, item.box) < rules.max_overlap for o in chosen):
                chosen.append(item)
        if chosen:
            kept[name] = chosen
    return kept


def judge(
    objects: Mapping[str, Sequence[Found]],
    metadata: Mapping[str, Any],
    colors_of: ColorsOf,
    rules: Rules = Rules(),
) -> Judgement:
    """Judge the objects of an image, as `keep` gives them.

    Every `include` clause must hold: as many objects of the class as asked for, of which the most confident
    have the colour and the position. No `exclude` clause may: fewer objects of the class than it says.

    Args:
        objects: Class -> objects, the most confident first.
        metadata: `include` and `exclude` of a GenEval prompt.
        colors_of: Asked only where a clause names a colour.
        rules: Settings.
    """
    faults: list[str] = []
    groups: list[list[Found] | None] = []
    for clause in metadata.get("include", ()):
        taken = list(objects.get(clause["class"], ()))[: clause["count"]]
        fault = next(_faults(taken, clause, groups, colors_of, rules), "")
        groups.append(None if fault else taken)
        faults += [fault] if fault else []
    for clause in metadata.get("exclude", ()):
        n = len(objects.get(clause["class"], ()))
        if n >= clause["count"]:
            faults.append(f"expected {clause['class']}<{clause['count']}, found {n}")
    return Judgement(not faults, "\n".join(faults))


def _faults(
    taken: Sequence[Found],
    clause: Mapping[str, Any],
    groups: Sequence[Sequence[Found] | None],
    colors_of: ColorsOf,
    rules: Rules,
) -> Iterator[str]:
    """What speaks against an include clause, in the order it is looked at; only the first counts."""
    name, count = clause["class"], clause["count"]
    if len(taken) < count:
        yield f"expected {name}>={count}, found {len(taken)}"
    if "color" in clause:
        color, seen = clause["color"], list(colors_of(name, taken))
        if seen.count(color) < count:
            every = ", ".join(f"{seen.count(c)} {c}" for c in COLORS if c in seen)
            yield f"expected {color} {name}>={count}, found {seen.count(color)} {color}; and {every}"
    if "position" in clause:
        relation, target = clause["position"]
        others = groups[target]
        if others is None:
            yield f"no target for {name} to be {relation}"
        for item in taken:
            for other in others or ():
                holds = relations(item.box, other.box, rules.position_threshold)
                if relation not in holds:
                    yield f"expected {name} {relation} target, found {' and '.join(sorted(holds))} target"


def relations(a: NDArray[np.float32], b: NDArray[np.float32], threshold: float = 0.1) -> set[str]:
    """Where box `a` lies seen from box `b`: none, one or two of left of, right of, above, below.

    The distance of the centres is shortened along each axis by `threshold` times both extents, and divided by
    its full length; beyond half is a direction.
    """
    first, second = (np.asarray(box, dtype=np.float32).reshape(2, 2) for box in (a, b))
    offset = first.mean(axis=0) - second.mean(axis=0)
    extent = np.abs(first[1] - first[0]) + np.abs(second[1] - second[0])
    short = np.maximum(np.abs(offset) - np.float32(threshold) * extent, 0) * np.sign(offset)
    if np.all(np.abs(short) < 1e-3):
        return set()
    dx, dy = short / np.linalg.norm(offset)
    held = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in held.items() if holds}


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes, counted in pixels with both ends included."""
    shared = _area(np.maximum(a[:2], b[:2]), np.minimum(a[2:4], b[2:4]))
    union = _area(a[:2], a[2:4]) + _area(b[:2], b[2:4]) - shared
    return float(shared / union) if union else 0.0


def _area(start: NDArray[np.float32], end: NDArray[np.float32]) -> np.float32:
    sides = np.maximum(end - start + np.float32(1), np.float32(0))
    return np.float32(sides[0] * sides[1])
