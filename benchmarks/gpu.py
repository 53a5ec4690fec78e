"""The targets that need a GPU: `python benchmarks/gpu.py` (for an H200; `--smoke` shows that it runs).

Prints one attention call at the shapes of SD3 and FLUX.1 at 1024 px against `F.scaled_dot_product_attention`,
then one denoising step of a full-size, randomly initialised SD3 transformer: plain, one of 24 layers edited,
every layer edited, every layer measured; the memory beyond the plain step, and how often the program waited
for the GPU inside the step. Times are medians of CUDA events, the ways in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sinkscope as sk
from sinkscope.attention import (
    Mask,
    Questions,
    ResolvedEdit,
    apply_edits,
    deferred,
    incoming_mass,
    measure,
    merge,
    model_kernel_with_lse,
    pick_candidates,
    sampled_mass,
    split,
)

SHAPES = {"SD3, 1024 px": (2, 24, 4429, 64), "FLUX.1, 1024 px": (1, 24, 4608, 128)}
TARGETS = {
    "measure + output": "<= 1.6",
    "measure + removal": "<= 2.1",
    "measure + removal, split": "<= 2.1",
    "1 layer edited": "<= 1.05",
    "every layer measured": "<= 1.5",
}
KEYS_PER_HEAD = 1
CANDIDATES = 32


class Timer:
    """Medians of ways that are run in turn."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats

    def seconds(self, way: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            began = time.perf_counter()
            way()
            return time.perf_counter() - began
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        way()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1000

    def medians(self, ways: dict[str, Callable[[], object]]) -> dict[str, float]:
        found: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(self.repeats + 3):
            for name, way in ways.items():
                taken = self.seconds(way)
                if turn >= 3:  # kernels are compiled and clocks rise
                    found[name].append(taken)
        return {name: statistics.median(times) for name, times in found.items()}

    def peak(self, way: Callable[[], object]) -> float:
        """MiB allocated at most beyond what was there."""
        if self.device.type != "cuda":
            return float("nan")
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20


def waits(way: Callable[[], object], device: torch.device) -> int:
    """How often the program waited for the GPU."""
    if device.type != "cuda":
        return -1
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            way()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(entry.message) for entry in said)


def one_call(timer: Timer, shape: tuple[int, int, int, int]) -> dict[str, tuple[float, float]]:
    """Way to (seconds, MiB beyond the output of a plain call)."""
    rows, heads, tokens, dim = shape
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(rows, tokens, heads, dim, generator=g).to(timer.device, torch.bfloat16).transpose(1, 2)
        for _ in range(3)
    )

    def run(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
    ) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)

    def output() -> None:
        """As `observe` does it: from the log-sum-exp of the model's kernel, if torch picks one with it."""
        shared = model_kernel_with_lse(q, k, v, None)
        if shared is None:
            run(q, k, v, None, False, None)
        measure(q, k, lse=None if shared is None else shared[1])

    def remove() -> None:
        top = incoming_mass(q, k).topk(KEYS_PER_HEAD, dim=-1).indices
        chosen = torch.zeros(rows, heads, tokens, dtype=torch.bool, device=q.device).scatter_(-1, top, True)
        edit = ResolvedEdit(chosen, Mask(), covers="all", count=KEYS_PER_HEAD)
        apply_edits(q, k, v, [edit], run=run, drop=True)

    def remove_split() -> None:
        sample = sampled_mass(q, k, None)
        parts = split(q, k, v, pick_candidates([sample], [], CANDIDATES))
        top = parts.measurement.mass["all"].topk(KEYS_PER_HEAD, dim=-1).indices
        chosen = torch.zeros(rows, heads, tokens, dtype=torch.bool, device=q.device).scatter_(-1, top, True)
        merge(parts, q, k, v, [ResolvedEdit(chosen, Mask(), covers="all", count=KEYS_PER_HEAD)], run=run)

    ways: dict[str, Callable[[], object]] = {
        "sdpa": lambda: run(q, k, v, None, False, None),
        "measure": lambda: incoming_mass(q, k),
        "measure + output": output,
        "measure + output, one kernel": lambda: measure(q, k, v, want=("mass", "output")),
        "measure + removal": remove,
        "measure + removal, split": remove_split,
    }
    questions = Questions()
    with deferred(questions):
        times, peaks = timer.medians(ways), {name: timer.peak(way) for name, way in ways.items()}
    questions.settle()
    return {name: (times[name], peaks[name] - peaks["sdpa"]) for name in ways}


def transformer(device: torch.device, smoke: bool) -> tuple[Any, dict[str, Any]]:
    """SD3 medium with random weights, and the inputs of a guided step at 1024 px."""
    from diffusers import SD3Transformer2DModel

    layers, heads, size, text = (2, 2, 16, 7) if smoke else (24, 24, 128, 333)
    dtype = torch.float32 if smoke else torch.bfloat16
    torch.manual_seed(0)
    with device:
        model = SD3Transformer2DModel(
            sample_size=size,
            num_layers=layers,
            num_attention_heads=heads,
            attention_head_dim=64,
            joint_attention_dim=4096,
            caption_projection_dim=heads * 64,
            pooled_projection_dim=2048,
            pos_embed_max_size=192,
        )
        model = model.to(dtype).eval()
        inputs = {
            "hidden_states": torch.randn(2, 16, size, size, dtype=dtype),
            "encoder_hidden_states": torch.randn(2, text, 4096, dtype=dtype),
            "pooled_projections": torch.randn(2, 2048, dtype=dtype),
            "timestep": torch.full((2,), 500.0, dtype=dtype),
        }
    return model, inputs


@contextmanager
def warmed(block: AbstractContextManager[Any], step: Callable[[], object]) -> Iterator[None]:
    """A block in which the questions asked once per block have been asked."""
    with block:
        step()
        yield


def one_step(timer: Timer, smoke: bool) -> dict[str, tuple[float, float, float, int]]:
    """Way to (seconds, ratio to the plain step beside it, MiB beyond it, waits)."""
    model, inputs = transformer(timer.device, smoke)

    def step() -> None:
        model(**inputs)

    edit = sk.Edit(sk.TopMass(keys_per_head=KEYS_PER_HEAD), sk.Mask())
    one = sk.Edit(edit.select, edit.action, layers=[1 if smoke else 12])
    blocks: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "empty edit": lambda: sk.intervene(model, []),
        "1 layer edited": lambda: sk.intervene(model, one, receipt=False),
        "1 layer edited, receipt": lambda: sk.intervene(model, one),
        "every layer edited": lambda: sk.intervene(model, edit, receipt=False),
        "every layer edited, split": lambda: sk.intervene(model, edit, receipt=False, split=True),
        "every layer measured": lambda: sk.observe(model, keep=("mass",)),
        "every layer measured, with entropy": lambda: sk.observe(model),
    }
    found = {}
    plain = timer.medians({"plain": step})["plain"]
    memory = timer.peak(step)
    found["plain"] = (plain, 1.0, 0.0, waits(step, timer.device))
    for name, block in blocks.items():
        before = timer.medians({"plain": step})["plain"]
        with warmed(block(), step):
            taken = timer.medians({name: step})[name]
            found[name] = (taken, taken / before, timer.peak(step) - memory, waits(step, timer.device))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on any device: no measurement")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.smoke:
        print(
            "This benchmark needs a CUDA device; there is none here, so nothing was measured.",
            file=sys.stderr,
        )
        return 1
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, smoke run: no measurement"
    print(f"{name}, torch {torch.__version__}, sinkscope {sk.__version__}, medians of {args.repeats}\n")
    timer = Timer(device, args.repeats)
    shapes = {"smoke": (1, 2, 140, 16)} if args.smoke else SHAPES
    with torch.no_grad():
        print("| attention call | ms | to SDPA | target | MiB beyond SDPA |\n| --- | --- | --- | --- | --- |")
        for shape, size in shapes.items():
            found = one_call(timer, size)
            for way, (seconds, used) in found.items():
                ratio, target = seconds / found["sdpa"][0], TARGETS.get(way, "")
                print(f"| {shape}: {way} | {seconds * 1000:.3f} | {ratio:.2f} | {target} | {used:.0f} |")
        print("\n| denoising step | ms | to plain | target | MiB beyond plain | waits |")
        print("| --- | --- | --- | --- | --- | --- |")
        for way, (seconds, ratio, used, count) in one_step(timer, args.smoke).items():
            target = TARGETS.get(way, "")
            print(f"| {way} | {seconds * 1000:.1f} | {ratio:.3f} | {target} | {used:.0f} | {count} |")
    print("\nalso wanted: no wait beyond those of the plain step and one at its end; <= 20 MiB beyond plain")
    return 0


if __name__ == "__main__":
    sys.exit(main())
