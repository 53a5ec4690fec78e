"""The plan: which units exist, in which batches, and what noise each starts from.

Every arm uses the same batches: a unit sits in the same slot of a batch of the same shape in every arm, so
that two arms differ by the edit alone (some kernels round differently for another batch shape). The last
batch may be smaller, and is so in every arm. The noise of a unit depends on its prompt id and its seed, never
on batch, order or arm.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sinkscope.errors import UsageError
from sinkscope.prompts import PromptRecord
from sinkscope.study import _validate

if TYPE_CHECKING:
    import torch

    from sinkscope.study._study import Study

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class Unit:
    """One prompt with one seed."""

    id: str
    """"<prompt id>-s<seed>", safe as a file name."""
    prompt: PromptRecord
    seed: int
    first: int | None = None
    """Seed of the noise where the study prescribes it (`noise_base`): base + number of the prompt."""

    @property
    def noise_seed(self) -> int:
        """Seed of the initial noise; see `shifted`."""
        return self.shifted(0)

    def shifted(self, shift: int) -> int:
        """Seed of the noise of this unit in an arm that shifts its seed.

        63 bits of SHA-256 over seed and prompt id; where the study prescribes seeds, the prescribed one.
        """
        if self.first is not None:
            return self.first + self.seed + shift
        text = f"sinkscope/noise/{self.seed + shift}/{self.prompt.id}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, shift: int = 0) -> torch.Generator:
        """A fresh CPU generator for this unit (CPU, so that every device starts from the same noise)."""
        import torch

        return torch.Generator("cpu").manual_seed(self.shifted(shift))


@dataclass(frozen=True)
class Batch:
    """Units that are generated together."""

    index: int
    units: tuple[Unit, ...]

    @property
    def name(self) -> str:
        """Folder name of the batch's shards."""
        return f"{self.index:05d}"


@dataclass(frozen=True)
class Task:
    """One batch in one arm: the smallest thing that is done or not done."""

    batch: Batch
    arm: str


@dataclass(frozen=True)
class Plan:
    """Units x arms, in batches."""

    units: tuple[Unit, ...]
    arms: tuple[str, ...]
    batch_size: int

    def batches(self) -> list[Batch]:
        """The units in batches of `batch_size`, the last one possibly smaller."""
        starts = range(0, len(self.units), self.batch_size)
        return [
            Batch(index, self.units[start : start + self.batch_size]) for index, start in enumerate(starts)
        ]

    def tasks(self) -> Iterator[Task]:
        """All tasks: batch by batch, and within a batch arm by arm, so that an unfinished run holds whole
        units."""
        for batch in self.batches():
            for arm in self.arms:
                yield Task(batch, arm)

    @property
    def images(self) -> int:
        """How many images the plan makes."""
        return len(self.units) * len(self.arms)


def make_plan(study: Study, prompts: Sequence[PromptRecord], batch_size: int) -> Plan:
    """The plan of a study over these prompts (checked for empty and duplicate ones)."""
    _validate.check_prompts(prompts)
    base = study.noise_base
    units = [
        Unit(unit_id(prompt.id, seed), prompt, seed, None if base is None else base + index)
        for seed in study.seeds
        for index, prompt in enumerate(prompts)
    ]
    return Plan(tuple(units), study.arm_names, batch_size)


def unit_id(prompt_id: str, seed: int) -> str:
    """A file-safe id: unsafe characters become "_", and then a short hash keeps different ids apart."""
    safe = _UNSAFE.sub("_", prompt_id).strip(".")[:80]
    if safe != prompt_id or safe != safe.lower():
        safe = f"{safe}-{hashlib.sha256(prompt_id.encode()).hexdigest()[:6]}"
    return f"{safe}-s{seed}"


def resolve_prompts(study: Study) -> tuple[PromptRecord, ...]:
    """The prompts a study means: loaded by name or file, or as given, and cut to `n_prompts`.

    Raises:
        UsageError: No prompts, empty or duplicate ones, fewer than `n_prompts`, or fewer than two where a
            verdict is asked for.
    """
    from sinkscope import prompts

    if isinstance(study.prompts, str):
        asked = {"seed": study.prompt_seed, "tasks": study.prompt_tasks, "order": study.prompt_order}
        usual = {"seed": 0, "tasks": None, "order": "stratified"}
        chosen: dict[str, Any] = {name: value for name, value in asked.items() if value != usual[name]}
        found = tuple(prompts.load(study.prompts, n=study.n_prompts, **chosen))
    else:
        found = study.prompts
    if study.n_prompts not in (None, len(found)):
        raise UsageError(
            f"The study asks for n_prompts={study.n_prompts}, but its prompts are {len(found)}. Ask for as "
            "many as "
            "there are (a named set draws any smaller number); for more images use several seeds."
        )
    _validate.check_prompts(found)
    if len(found) < 2 and study.arms and study.margins:
        raise UsageError(
            f"The study declares margins for {', '.join(study.margins)}, and a verdict needs at least two "
            f"prompts, but it has {len(found)}. Add prompts (more seeds do not count as prompts), or leave "
            "the margins out."
        )
    return found
