"""What observing and editing cost on the embedded model: `python benchmarks/embedded.py`.

Prints medians of whole generations as ratios to the plain pipeline, measured in one process and interleaved,
so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

import sinkscope as sk

PROMPTS = [
    "a photo of a red circle",
    "a photo of two stars",
    "a photo of a heart above a ring",
    "a photo of a blue cross",
]
REPEATS = 5


def main() -> None:
    pipe = sk.load("shapes")
    edit = sk.Edit(sk.TopMass(keys_per_head=1), sk.Mask())
    ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "plain": nullcontext,
        "empty edit (baseline arm)": lambda: sk.intervene(pipe, []),
        "observe every layer": lambda: sk.observe(pipe, queries="image"),
        "null edit, every layer": lambda: sk.intervene(pipe, edit.control("null")),
        "remove 1 key per head, every layer": lambda: sk.intervene(pipe, edit, receipt=False),
        "the same with receipt": lambda: sk.intervene(pipe, edit),
        "the same with full receipt": lambda: sk.intervene(pipe, edit, receipt="full"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            noise = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
            began = time.perf_counter()
            with way():
                pipe(PROMPTS, generator=noise)
            times[name].append(time.perf_counter() - began)
    base = statistics.median(times["plain"])
    each = base / len(PROMPTS)
    print(f"plain: {each:.2f} s per image, batch {len(PROMPTS)}, {torch.get_num_threads()} threads")
    for name, found in times.items():
        print(f"{statistics.median(found) / base:6.2f} x  {name}")


if __name__ == "__main__":
    main()
