"""What observing and editing cost on the embedded model: `python benchmarks/embedded.py`.

Whole generations (text encoders, sampling, decoding) of one batch, as ratios of medians to the plain
pipeline, all ways in turn in one process. A study runs in batches of 8 on a CPU, so that is the default.
Peak memory is that of a process of its own per way.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "passive"  # spinning threads make block loops several times slower

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from _table import interleaved, machine, peak_of

import sinkscope as sk

EDIT = sk.Edit(sk.TopMass(keys_per_head=1), sk.Mask())
ONE = sk.Edit(sk.TopMass(keys_per_head=1), sk.Mask(), layers=[3])
Block = Callable[[Any], AbstractContextManager[Any]]
WAYS: dict[str, Block] = {
    "plain pipeline": lambda pipe: nullcontext(),
    "baseline arm (empty edit)": lambda pipe: sk.intervene(pipe, []),
    "observe one layer": lambda pipe: sk.observe(pipe, layers=[3]),
    "observe all layers": lambda pipe: sk.observe(pipe),
    "edit one layer, with receipt": lambda pipe: sk.intervene(pipe, ONE),
    "edit all layers, with receipt": lambda pipe: sk.intervene(pipe, EDIT),
    "null edit, all layers": lambda pipe: sk.intervene(pipe, EDIT.control("null")),
}
BARS = {"observe all layers": 1.35, "edit one layer, with receipt": 1.15}


def generation(pipe: Any, way: Block, units: int, steps: int) -> Callable[[], object]:
    """One batch."""
    prompts = [record.text for record in sk.prompts.load("shapes", n=48)][:units]

    def work() -> None:
        noise = [torch.Generator().manual_seed(seed) for seed in range(units)]
        with way(pipe):
            pipe(prompts, generator=noise, num_inference_steps=steps)

    return work


def memory(name: str, args: argparse.Namespace) -> float:
    """MiB, in a process of its own."""
    command = [sys.executable, __file__, "--units", str(args.units), "--steps", "3", "--peak", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=int, default=8, help="images per batch")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = sk.load("shapes")
    if args.peak:
        generation(pipe, WAYS["plain pipeline"], 1, 1)()  # libraries load
        print(peak_of(generation(pipe, WAYS[args.peak], args.units, args.steps)))
        return
    works = {name: generation(pipe, way, args.units, args.steps) for name, way in WAYS.items()}
    clocks = interleaved(works, args.rounds)
    cpu, wall = clocks["plain pipeline"].median()
    print(
        f"Embedded model `shapes`, {args.units} images per batch, {args.steps} steps, medians of "
        f"{args.rounds} rounds; plain: {cpu / args.units:.3f} s of processor time per image, "
        f"{wall / args.units:.3f} s on the wall. {machine(args.threads)}.\n"
    )
    print("| whole generation | processor time | wall | bar | peak MiB |\n| --- | --- | --- | --- | --- |")
    for name, clock in clocks.items():
        own = clock.median()
        bar = f"{BARS[name]:.2f}" if name in BARS else ""
        print(f"| {name} | {own[0] / cpu:.2f} | {own[1] / wall:.2f} | {bar} | {memory(name, args):.0f} |")


if __name__ == "__main__":
    main()
