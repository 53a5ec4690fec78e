"""What is planted: which key is how heavy, and which key carries the colour of the picture.

Mass and content are set apart, each as a table over keys, so that a key can have one without the other. Keys
are 64 image tokens followed by 8 text tokens; every head has its own tables. Masses are those of the image
queries, before noise; ordinary keys share what the planted ones leave, unevenly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sinkscope.errors import UsageError

IMAGE_KEYS, TEXT_KEYS, HEADS = 64, 8, 2
KEYS = IMAGE_KEYS + TEXT_KEYS
TASKS = ("day", "night")

Floats = NDArray[np.float32]
UNEVEN = 0.25
"""Standard deviation, in nats, of the logits of ordinary keys."""


@dataclass(frozen=True, eq=False)
class Plant:
    """Tables of one planted model. Phases are equal parts of the run; a single one holds for all of it."""

    mass: Floats
    """Mass given by image queries, `[phase, head, key]`; sums to one over keys."""
    text_mass: Floats
    """Mass given by text queries, whose outputs reach nothing, `[head, key]`."""
    carry: Floats
    """How much of the prompt's own colour a key's value holds, `[task, phase, head, key]`."""
    mislead: Floats
    """How much of a wrong colour it holds, `[task, phase, head, key]`."""
    noise: Floats
    """Standard deviation of the rest of its value, `[head, key]`."""
    floor: float | None = 0.01
    """Outputs are divided by their length, so that only the direction of what is carried counts; lengths
    below the floor fade to grey. None: not divided, the colour is as strong as the mass that carries it."""
    around: float = 0.0
    """Share of the colour that does not pass through attention."""

    def __post_init__(self) -> None:
        sums = self.mass.sum(-1)
        if not np.allclose(sums, 1.0, atol=1e-4) or (self.mass <= 0).any():
            raise UsageError(
                f"Planted masses sum to {sums.min():g}..{sums.max():g}; expected positive ones that sum to 1."
            )


def masses(planted: Mapping[int, float], rng: np.random.Generator) -> Floats:
    """Mass of every key, `[key]`: the planted ones as given, the rest uneven over the others."""
    share = np.exp(rng.normal(0.0, UNEVEN, KEYS))
    chosen = list(planted)
    share[chosen] = 0.0
    share *= (1.0 - sum(planted.values())) / share.sum()
    share[chosen] = list(planted.values())
    return share.astype(np.float32)


def draw_keys(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions for planting, `[head, count]`: all different, within and between heads."""
    return rng.permutation(KEYS)[: HEADS * count].reshape(HEADS, count)


def only(keys: NDArray[np.int64]) -> Floats:
    """One at the given keys of each head `[head, count]`, zero elsewhere: `[head, key]`."""
    table = np.zeros((HEADS, KEYS), dtype=np.float32)
    np.put_along_axis(table, keys, 1.0, axis=1)
    return table


def everywhere(table: Floats, phases: int = 1) -> Floats:
    """The same table in every task and phase: `[head, key]` to `[task, phase, head, key]`."""
    return np.broadcast_to(table, (len(TASKS), phases, HEADS, KEYS)).copy()
