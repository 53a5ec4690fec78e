"""What one attention call costs: `python benchmarks/attention.py`, with `--heads 24` at the size of SD3.

Ratios of medians to one `F.scaled_dot_product_attention` call in the same process. All ways are timed in
turn, round after round, so that a busy machine slows all of them alike; `--clock cpu` counts processor
seconds of all threads instead of seconds on the wall. Peak memory is that of a process of its own per way,
outputs included, beyond what q, k, v take.

The views are those a model hands over: [row, token, head, dim] storage, transposed.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "passive"  # spinning threads make block loops several times slower

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sinkscope as sk
from sinkscope.attention import Mask, ResolvedEdit, apply_edits, incoming_mass, measure

KEYS_PER_HEAD = 5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BARS = {"measure": 0.85, "measure + output": 1.3, "measure + removal": 1.9}
SPEEDUP, MEMORY = 2.3, 40

Way = Callable[[Tensor, Tensor, Tensor], object]


def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)


def remove(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    top = incoming_mass(q, k).topk(KEYS_PER_HEAD, dim=-1).indices
    chosen = torch.zeros(*q.shape[:2], k.shape[2], dtype=torch.bool).scatter_(-1, top, True)
    return apply_edits(q, k, v, [ResolvedEdit(chosen, Mask())], run=run)


class Attention(nn.Module):
    """A model that is one attention call, so that `intervene` can be timed on it."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


def weights(q: Tensor, k: Tensor) -> Tensor:
    """The whole matrix, as the paper's code builds it."""
    return torch.softmax((q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5, -1)


def explicit_output(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    p = weights(q, k)
    return p.mean(-2), p.to(v.dtype) @ v


def explicit_remove(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    top = torch.softmax(logits, -1).mean(-2).topk(KEYS_PER_HEAD, dim=-1).indices
    chosen = torch.zeros(logits.shape[:2] + logits.shape[3:], dtype=torch.bool).scatter_(-1, top, True)
    return torch.softmax(logits.masked_fill(chosen[:, :, None], -torch.inf), -1).to(v.dtype) @ v


WAYS: dict[str, Way] = {
    "sdpa": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
    "measure": lambda q, k, v: incoming_mass(q, k),
    "measure + output": lambda q, k, v: measure(q, k, v, want=("mass", "output")),
    "measure + removal": remove,
    "explicit measure": lambda q, k, v: weights(q, k).mean(-2),
    "explicit measure + output": explicit_output,
    "explicit measure + removal": explicit_remove,
}


def draw(heads: int, tokens: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Strided views; a few keys of every head take much of the mass."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, tokens, heads, dim, generator=g) for _ in range(3))
    q += 0.5
    k[:, :KEYS_PER_HEAD] += 0.5
    q, k, v = (t.to(dtype).transpose(1, 2) for t in (q, k, v))
    return q, k, v


def ratios(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, tuple[float, float]]:
    """Way to (seconds, ratio to SDPA)."""
    tensors = draw(args.heads, args.tokens, args.dim, dtype)
    ways = {n: w for n, w in WAYS.items() if args.explicit or not n.startswith("explicit")}
    with torch.no_grad():
        found = rounds(args, ways, tensors)
        for name, receipt in (("intervene(), no receipt", False), ("intervene(), receipt", True)):
            model = Attention()
            edit = sk.Edit(sk.TopMass(keys_per_head=KEYS_PER_HEAD), sk.Mask())
            with sk.intervene(model, edit, receipt=receipt):
                model(*tensors)  # what is asked once per block
                found |= rounds(args, {"sdpa ": WAYS["sdpa"], name: model}, tensors)
    return found


def rounds(
    args: argparse.Namespace, ways: dict[str, Way], tensors: tuple[Tensor, Tensor, Tensor]
) -> dict[str, tuple[float, float]]:
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.repeats + 1):
        for name, way in ways.items():
            began = clock()
            way(*tensors)
            if turn:  # the first round warms up
                times[name].append(clock() - began)
    base = statistics.median(next(iter(times.values())))
    return {name: (statistics.median(t), statistics.median(t) / base) for name, t in times.items()}


def memory(name: str, args: argparse.Namespace) -> float | None:
    """MiB beyond the inputs, in a process of its own; None where the machine has too little."""
    if name.startswith("explicit") and 16 * args.peak_heads * args.tokens**2 > available():
        return None
    sizes = map(str, (args.peak_heads, args.tokens, args.dim, args.threads))
    command = [sys.executable, __file__, "--peak", name, args.dtypes[0], *sizes]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak(name: str, dtype: str, heads: str, tokens: str, dim: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    with torch.no_grad():
        WAYS[name](*draw(2, 32, int(dim), DTYPES[dtype]))  # libraries load
        tensors = draw(int(heads), int(tokens), int(dim), DTYPES[dtype])
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = status("VmRSS")
        kept = WAYS[name](*tensors)
        print((status("VmHWM") - before) / 1024)
        del kept


def status(name: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def available() -> int:
    """Bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def table(args: argparse.Namespace) -> list[str]:
    found = {name: ratios(args, DTYPES[name]) for name in args.dtypes}
    names = [name for name in next(iter(found.values())) if name.strip() != "sdpa"]
    titles = [title for kind in args.dtypes for title in (f"{kind}, to SDPA", "explicit to it")]
    rows = [f"| way | {' | '.join(titles)} | peak MiB, {args.peak_heads} heads |"]
    rows.append("| --- |" + " --- |" * (len(titles) + 1))
    for name in ("sdpa", *names):
        cells = []
        for kind in args.dtypes:
            seconds, ratio = found[kind][name]
            explicit = found[kind].get(f"explicit {name}")
            cells.append(
                f"{ratio:.2f}" if name != "sdpa" else f"1 ({seconds * 1000 / args.heads:.0f} ms per head)"
            )
            cells.append(f"{explicit[0] / seconds:.1f}" if explicit else "")
        used = memory(name, args) if args.memory and name in WAYS else None
        rows.append(f"| {name} | {' | '.join(cells)} | {'' if used is None else f'{used:.0f}'} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4429)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--no-explicit", dest="explicit", action="store_false")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--peak-heads", type=int, default=24)
    parser.add_argument("--peak", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        peak(*args.peak)
        return
    torch.set_num_threads(args.threads)
    print(
        f"{args.heads} heads, {args.tokens} tokens, head size {args.dim}, {args.threads} threads, "
        f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}, {args.clock} clock, medians of {args.repeats} rounds\n"
    )
    print("\n".join(table(args)))
    bars = ", ".join(f"{name} <= {bar}" for name, bar in BARS.items())
    print(f"\nbars: {bars}; explicit to it >= {SPEEDUP}; peak <= {MEMORY} MiB; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
