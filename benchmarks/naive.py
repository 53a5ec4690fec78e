"""The demo study against a naive loop over the same arms: `python benchmarks/naive.py`.

The loop does what the paper's scripts do: one image at a time, text encoders every time, the whole softmax
matrix of every call, built again after the edit, a dump of what was chosen, and a baseline of its own for
every budget. Its model is loaded before the clock starts. The study is run as users run it: the model by its
name, with as many worker processes as the tool chooses, and their start is on its clock. Both start from the
same noise and write PNG; nothing is scored.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "passive"  # spinning threads make block loops several times slower

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from _table import Clock, machine
from diffusers.models import attention_processor
from torch import Tensor

import sinkscope as sk
from sinkscope.study import _machine, make_plan
from sinkscope.study._team import Work, automatic
from sinkscope.study.demo import demo

BAR = 3.0
TEXT = 16 + 77


class Explicit:
    """Stands in for `torch.nn.functional` where the denoiser's attention looks for it."""

    def __init__(self, arm: str) -> None:
        self.kind, _, budget = arm.partition("_")
        self.budget = int(budget or 0)
        self.log: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.nn.functional, name)

    def scaled_dot_product_attention(self, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        p = torch.softmax(logits, -1)
        if q.shape[1] == 1:  # the autoencoder's
            return p @ v
        mass = p[:, :, : q.shape[2] - TEXT].mean(2)
        top = mass.topk(max(self.budget, 1), -1)
        self.log.append((top.indices.tolist(), top.values.tolist()))
        if self.kind == "baseline":
            self.log[-1] += (torch.special.entr(p).sum(-1).mean().item(),)
            return p @ v
        chosen = torch.zeros_like(mass, dtype=torch.bool)
        if self.kind in ("sink", "value"):
            chosen.scatter_(-1, top.indices, True)
        elif self.kind == "random":
            free = torch.rand_like(mass).scatter(-1, top.indices, -1.0)
            chosen.scatter_(-1, free.topk(self.budget, -1).indices, True)
        if self.kind == "value":
            return p @ torch.where(chosen[..., None], v.mean(2, keepdim=True), v)
        p = torch.softmax(logits.masked_fill(chosen[:, :, None], -torch.inf), -1)
        self.log[-1] += ((p.mean(2) * chosen).sum(-1).tolist(),)
        return p @ v


def naive(pipe: Any, study: sk.Study, units: Any, folder: Path) -> None:
    """Every arm, image by image; as many baselines as there are budgets."""
    for index, arm in enumerate(conditions(study)):
        (folder / f"{index}_{arm}").mkdir(parents=True)
        for unit in units:
            explicit = Explicit(arm)
            with mock.patch.object(attention_processor, "F", explicit):
                made = pipe(unit.prompt.text, generator=unit.generator(), num_inference_steps=study.steps)
            made.images[0].save(folder / f"{index}_{arm}" / f"{unit.id}.png")
            (folder / f"{index}_{arm}" / f"{unit.id}.json").write_text(json.dumps(explicit.log))


def conditions(study: sk.Study) -> list[str]:
    """Arms in the order of a script that runs budget by budget."""
    budgets = list(dict.fromkeys(name.partition("_")[2] for name in study.arms if "_" in name))
    rest = [name for name in study.arms if "_" not in name]
    groups = [[name for name in study.arms if name.endswith(f"_{budget}")] for budget in budgets]
    return [name for group in groups for name in ("baseline", *group)] + rest


def plain(pipe: Any, study: sk.Study, units: Any) -> None:
    """A floor for one process: the bare pipeline in batches of 8, once per arm but null; nothing measured or
    kept."""
    for _ in study.arm_names[1:]:
        for start in range(0, len(units), 8):
            some = units[start : start + 8]
            noise = [unit.generator() for unit in some]
            pipe([unit.prompt.text for unit in some], generator=noise, num_inference_steps=study.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = sk.load("shapes")
    pipe.set_progress_bar_config(disable=True)
    records = sk.prompts.load("shapes", n=args.prompts)
    study = replace(demo(), prompts=tuple(records), n_prompts=None, steps=args.steps, metrics=(), margins={})
    units = make_plan(study, records, 1).units
    used: dict[str, int] = {}

    def fresh(work: Callable[[Path], object]) -> Callable[[], None]:
        def run() -> None:
            folder = Path(tempfile.mkdtemp())
            try:
                work(folder / "run")
            finally:
                shutil.rmtree(folder)

        return run

    def whole(folder: Path) -> None:
        used["threads"] = sk.run(study, folder, progress=False).record["resolved"]["threads"]

    ways = {
        "naive loop": fresh(lambda folder: naive(pipe, study, units, folder)),
        "study": fresh(whole),
        "no overhead at all": lambda: plain(pipe, study, units),
    }
    # A warm-up of one prompt; the study's workers are new each time, as a user's are.
    fresh(lambda folder: naive(pipe, study, units[:1], folder))()
    plain(pipe, study, units[:1])
    clocks = {name: Clock() for name in ways}
    for _ in range(args.rounds):
        for name, work in ways.items():
            clocks[name].time(work)
    each = len(units)
    workers = automatic(
        Work.whole(study, each), parameters=0, cores=_machine.cores(), memory=_machine.free_memory()
    )
    rounds = "one round" if args.rounds == 1 else f"medians of {args.rounds} rounds"
    print(
        f"The demo study with {args.prompts} prompts, {len(study.arm_names)} arms, {args.steps} steps, "
        f"{rounds}. {machine(args.threads)}. The study uses {counted(workers, 'process')} of "
        f"{counted(used['threads'], 'thread')}, as it chooses by itself, and their start is in its time; the "
        f"others one process of {counted(args.threads, 'thread')}.\n"
    )
    print("| way | processor s per prompt | wall s per prompt |\n| --- | --- | --- |")
    times = {name: clock.median() for name, clock in clocks.items()}
    for name, (cpu, wall) in times.items():
        print(f"| {name} | {cpu / each:.2f} | {wall / each:.2f} |")
    for name, bar in (("study", f" (bar {BAR:g})"), ("no overhead at all", "")):
        cpu, wall = (slow / fast for slow, fast in zip(times["naive loop"], times[name], strict=True))
        print(f"| {name}: times as fast{bar} | {cpu:.2f} | {wall:.2f} |")


def counted(count: int, word: str) -> str:
    """ "1 process", "2 processes"."""
    return f"{count} {word}" + ("" if count == 1 else "es" if word.endswith("s") else "s")


if __name__ == "__main__":
    main()
