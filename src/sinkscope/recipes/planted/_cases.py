"""The planted models, one per way in which a verdict could be wrong.

Each case draws its plant from a seed and declares, before anything runs, the arms and the right answers. A
margin is the smallest difference that would matter: a fifth of the pictures, which equal answers to 16
prompts of one task just can show, and for the distance to the baseline's picture about a fifth of what losing
the colour costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sinkscope.attention import Frozen, Keys, ReplaceValue, TopMass
from sinkscope.models import Edit
from sinkscope.recipes.planted._evidence import LAYER, Evidence, keys_text
from sinkscope.recipes.planted._plant import (
    HEADS,
    IMAGE_KEYS,
    KEYS,
    TASKS,
    Floats,
    Plant,
    draw_keys,
    everywhere,
    masses,
    only,
)

NOISE = 0.003
"""Standard deviation of what a value holds besides colour; a carried colour has length one."""
MARGINS = {"scene": 0.2, "rmse": 0.04}
Rng: TypeAlias = np.random.Generator
Positions: TypeAlias = NDArray[np.int64]


class Question(NamedTuple):
    """Something the instrument is asked, with the planted answer."""

    text: str
    expected: str
    find: Callable[[Evidence], str]


@dataclass(frozen=True)
class Planted:
    """One case with one seed: the model's tables, the arms and the questions."""

    plant: Plant
    arms: Mapping[str, Any]
    questions: Sequence[Question]
    steps: int = 4
    ranks: int = 1
    """How many keys per head the traces must hold."""


# ---- arms


def top(budget: int = 1, **settings: Any) -> Edit:
    """Remove the heaviest keys of each head in the block that carries the colour."""
    return Edit(TopMass(keys_per_head=budget), layers=[LAYER], **settings)


def named(keys: Positions) -> tuple[Edit, ...]:
    """Remove one named key of each head, `[head]`."""
    return tuple(Edit(Keys((int(key),)), layers=[LAYER], heads=[head]) for head, key in enumerate(keys))


def controls(edit: Edit, *kinds: str) -> dict[str, Edit]:
    """Controls of an edit, under their kinds."""
    return {kind: edit.control(kind, seed=0) for kind in kinds}


# ---- questions


def same(arm: str, against: str = "baseline", *, task: str = "all", only: str = "") -> list[Question]:
    """The arm does nothing that matters, by every metric or by one."""
    metrics = [only] if only else list(MARGINS)
    return [_verdict(arm, against, metric, task, "equivalent") for metric in metrics]


def worse(arm: str, against: str = "baseline", task: str = "all") -> list[Question]:
    """The arm costs pictures, and moves them away from the baseline's."""
    pairs = {"scene": "different, lower", "rmse": "different, higher"}
    return [_verdict(arm, against, metric, task, word) for metric, word in pairs.items()]


def moved(arm: str, against: str = "baseline") -> list[Question]:
    """The arm changes pictures, whatever that means for their correctness."""
    return [_verdict(arm, against, "rmse", "all", "different, higher")]


def first(keys: Positions) -> list[Question]:
    """The heaviest key of each head is the planted one, at every step and in every picture; `[head]`."""
    where = "; ".join(f"h{head}: {'image' if key < IMAGE_KEYS else 'text'}" for head, key in enumerate(keys))
    return [
        Question("heaviest key", keys_text({h: [[int(k)]] for h, k in enumerate(keys)}), Evidence.first),
        Question("its segment", where, Evidence.segments),
    ]


def _first_of_text(plant: Plant) -> Question:
    expected = keys_text({head: [[int(key)]] for head, key in enumerate(plant.text_mass.argmax(-1))})
    return Question("heaviest key of the text queries", expected, lambda evidence: evidence.first_of("text"))


def mass_matched(arm: str = "sink", control: str = "mass") -> Question:
    """The mass control removed as much mass as the edit."""

    def find(evidence: Evidence) -> str:
        ratio = evidence.removed_mass(control) / evidence.removed_mass(arm)
        return "within 1 %" if abs(ratio - 1.0) <= 0.01 else f"{ratio:.3f} times"

    return Question(f"mass removed, {control} against {arm}", "within 1 %", find)


def _verdict(arm: str, against: str, metric: str, task: str, expected: str) -> Question:
    def find(evidence: Evidence) -> str:
        return evidence.verdict(arm, against, metric=metric, task=task)

    where = "" if task == "all" else f", {task}"
    return Question(f"{arm} - {against} ({metric}{where})", expected, find)


# ---- plants


def _plant(mass: Floats, carry: Floats, rng: Rng, **settings: Any) -> Plant:
    """A plant whose other tables are plain; the tables given may leave out tasks and phases."""
    mass = mass if mass.ndim == 3 else mass[None]
    carry = carry if carry.ndim == 4 else everywhere(carry, len(mass))
    decoys = draw_keys(1, rng)
    text_mass = np.stack([masses({int(key): 0.4}, rng) for key in decoys[:, 0]])
    plain = {"mislead": np.zeros_like(carry), "noise": np.full((HEADS, KEYS), NOISE, dtype=np.float32)}
    return Plant(mass=mass, text_mass=text_mass, carry=carry, **{**plain, **settings})


def _heavy(share: float, rng: Rng) -> tuple[Positions, Floats]:
    """One heavy key per head `[head]` and the masses `[head, key]`."""
    keys = draw_keys(1, rng)[:, 0]
    return keys, np.stack([masses({int(key): share}, rng) for key in keys])


def heavy_irrelevant(rng: Rng) -> Planted:
    """A third of all mass lies on a key whose value is zero; every other key carries the colour."""
    keys, mass = _heavy(0.35, rng)
    sink = only(keys[:, None])
    noise = NOISE * (1.0 - sink)
    plant = _plant(mass, 1.0 - sink, rng, noise=noise)
    arms = {"sink": top(), **controls(top(), "count", "mass", "null"), "named": named(keys)}
    questions = [*first(keys), *same("sink"), *same("named"), *same("null")]
    for control in ("count", "mass"):
        questions += [*same(control), *same("sink", control)]
    questions += [Question("steps for which it stays", "4 of 4", Evidence.steps_held), _first_of_text(plant)]
    return Planted(plant, arms, questions)


def light_necessary(rng: Rng) -> Planted:
    """The lightest key of each head carries all of the colour; the heavy one carries nothing."""
    keys = draw_keys(2, rng)
    mass = np.stack([masses({int(heavy): 0.3, int(light): 0.0015}, rng) for heavy, light in keys])
    noise = NOISE / 10 * (1.0 - only(keys[:, :1]))
    arms = {"sink": top(), **controls(top(), "count", "bottom"), "named": named(keys[:, 1])}
    questions = [*first(keys[:, 0]), *same("sink"), *same("count"), *worse("bottom"), *worse("named")]
    questions += [_verdict("sink", "bottom", "scene", "all", "different, higher")]
    return Planted(_plant(mass, only(keys[:, 1:]), rng, noise=noise, floor=3e-4), arms, questions)


def heavy_necessary(rng: Rng) -> Planted:
    """A third of all mass lies on the one key of each head that carries the colour."""
    keys, mass = _heavy(0.35, rng)
    elsewhere = Edit(TopMass(keys_per_head=1), layers=[0])
    kinds = ("count", "segment", "mass", "next", "bottom")
    arms = {"sink": top(), **controls(top(), *kinds, "null"), "block_0": elsewhere}
    questions = [*first(keys), mass_matched(), *worse("sink"), *same("block_0"), *same("null")]
    for control in kinds:
        questions += [*same(control), *worse("sink", control)]
    return Planted(_plant(mass, only(keys[:, None]), rng), arms, questions)


def breaks_at_k(rng: Rng) -> Planted:
    """The k* heaviest keys of each head carry the colour, and one of them is enough."""
    largest = 6
    count = int(rng.integers(2, largest))
    keys = draw_keys(count, rng)
    mass = np.stack([masses(dict.fromkeys(map(int, row), 0.5 / count), rng) for row in keys])
    ladder = {f"sink_{budget}": budget for budget in range(1, largest + 1)}
    arms: dict[str, Any] = {arm: top(budget) for arm, budget in ladder.items()}
    arms["count"] = top(largest).control("count")
    questions: list[Question] = []
    for metric in MARGINS:
        questions += _boundary(ladder, metric, count)
    questions += [*same(f"sink_{count - 1}"), *worse(f"sink_{count}")]
    questions += [*same("count"), *worse(f"sink_{largest}", "count")]
    return Planted(_plant(mass, only(keys), rng), arms, questions, ranks=count)


def _boundary(ladder: Mapping[str, float], metric: str, count: int) -> list[Question]:
    def find(answer: str) -> Callable[[Evidence], str]:
        return lambda evidence: evidence.boundary(ladder, {metric: MARGINS[metric]}, answer)

    return [
        Question(f"largest budget shown harmless ({metric})", str(count - 1), find("within")),
        Question(f"smallest budget shown harmful ({metric})", str(count), find("boundary")),
    ]


def moving(rng: Rng) -> Planted:
    """Each step has its own heavy key, and only that one carries the colour then."""
    steps = 8
    keys = draw_keys(steps, rng)
    mass = np.stack([[masses({int(keys[h, s]): 0.35}, rng) for h in range(HEADS)] for s in range(steps)])
    carry = np.stack([everywhere(only(keys[:, s : s + 1]))[:, 0] for s in range(steps)], axis=1)
    frozen = Edit(Frozen(TopMass(keys_per_head=1), step=0), layers=[LAYER])
    arms = {"sink": top(), **controls(top(), "count", "persistence"), "frozen": frozen}
    path = keys_text({head: [[int(key)] for key in keys[head]] for head in range(HEADS)})
    questions = [
        Question("heaviest key at each step", path, Evidence.first),
        Question("steps for which it stays", f"1 of {steps}", Evidence.steps_held),
        *worse("sink"),
        *same("frozen"),
    ]
    for control in ("count", "persistence"):
        questions += [*same(control), *worse("sink", control)]
    return Planted(_plant(mass, carry, rng), arms, questions, steps=steps)


def insensitive(rng: Rng) -> Planted:
    """The colour goes around attention: a heavy key is there, and nothing that is removed matters."""
    keys, mass = _heavy(0.5, rng)
    half = top(KEYS // 2)
    arms = {
        "sink": top(),
        **controls(top(), "count", "null"),
        "half": half,
        "other_half": half.control("count"),
    }
    questions = first(keys)
    for arm in arms:
        questions += same(arm)
    questions += same("half", "other_half")
    return Planted(_plant(mass, np.ones((HEADS, KEYS), np.float32), rng, around=0.97), arms, questions)


def only_mass(rng: Rng) -> Planted:
    """All keys carry the same and the colour is as strong as the mass: only how much mass is lost counts."""
    keys, mass = _heavy(0.4, rng)
    zero = top(action=ReplaceValue(with_="zero"))
    arms = {"sink": zero, **controls(zero, "count", "mass"), "masked": top()}
    questions = [*first(keys), mass_matched(), *moved("sink"), *same("count"), *moved("sink", "count")]
    questions += [*moved("mass"), *same("sink", "mass", only="rmse"), *same("masked")]
    return Planted(_plant(mass, np.ones((HEADS, KEYS), np.float32), rng, floor=None), arms, questions)


def one_task(rng: Rng) -> Planted:
    """The heavy key is needed for one task only; for the other every key carries the colour."""
    keys, mass = _heavy(0.4, rng)
    carry = everywhere(np.ones((HEADS, KEYS), np.float32))
    carry[1] = only(keys[:, None])
    arms = {"sink": top(), **controls(top(), "count")}
    questions = [*first(keys), *worse("sink"), *worse("sink", task=TASKS[1]), *same("sink", task=TASKS[0])]
    questions += same("count")
    return Planted(_plant(mass, carry, rng), arms, questions)


def opposite_tasks(rng: Rng) -> Planted:
    """The heavy key carries the right colour in one task and a wrong one in the other; the rest carry the
    reverse, weakly."""
    keys, mass = _heavy(0.6, rng)
    sink = only(keys[:, None])
    right, wrong = everywhere(sink), everywhere(0.5 * (1.0 - sink))
    right[1], wrong[1] = wrong[1].copy(), right[1].copy()
    arms = {"sink": top(), **controls(top(), "count")}
    questions = [*first(keys), *worse("sink", task=TASKS[0])]
    questions += [_verdict("sink", "baseline", "scene", TASKS[1], "different, higher")]
    questions += [
        _verdict("sink", "baseline", "scene", "all", "inconclusive"),
        *moved("sink"),
        *same("count"),
    ]
    return Planted(_plant(mass, right, rng, mislead=wrong), arms, questions)


def one_head(rng: Rng) -> Planted:
    """Both heads have a heavy key; only that of the second carries the colour, and only there."""
    keys, mass = _heavy(0.4, rng)
    carry = only(keys[:, None])
    carry[0] = 0.0
    arms = {"sink_h0": top(heads=[0]), "sink_h1": top(heads=[1])}
    questions = [*first(keys), *same("sink_h0"), *worse("sink_h1")]
    return Planted(_plant(mass, carry, rng), arms, questions)


def early_only(rng: Rng) -> Planted:
    """The heavy key is needed in the first half of the run; in the second every key carries the colour."""
    keys, mass = _heavy(0.4, rng)
    carry = everywhere(np.ones((HEADS, KEYS), np.float32), 2)
    carry[:, 0] = only(keys[:, None])
    arms = {"early": top(steps=(0.0, 0.5)), "late": top(steps=(0.5, 1.0))}
    questions = [*first(keys), *moved("early"), *same("late")]
    return Planted(_plant(np.stack([mass, mass]), carry, rng), arms, questions)


CASES: dict[str, Callable[[Rng], Planted]] = {
    case.__name__: case
    for case in (
        heavy_irrelevant,
        light_necessary,
        heavy_necessary,
        breaks_at_k,
        moving,
        insensitive,
        only_mass,
        one_task,
        opposite_tasks,
        one_head,
        early_only,
    )
}
"""Cases by name, in the order of the table."""
