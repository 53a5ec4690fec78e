"""What one attention call costs: `python benchmarks/attention.py`, with `--heads 24` at the size of SD3.

Ratios of medians to one `F.scaled_dot_product_attention` call in the same process, on the wall clock and in
processor seconds of all threads. All ways are timed in turn, round after round, so that a busy machine slows
all of them alike. Peak memory is that of a process of its own per way, outputs included, beyond q, k, v.

The views are those a model hands over: [row, token, head, dim] storage, transposed.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "passive"  # spinning threads make block loops several times slower

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _table import interleaved, machine, peak_of
from torch import Tensor, nn

import sinkscope as sk
from sinkscope.attention import Mask, ResolvedEdit, apply_edits, incoming_mass, measure

KEYS_PER_HEAD = 5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BARS = {"measure": 0.85, "measure + output": 1.3, "measure + removal": 1.9}
SPEEDUP, MEMORY = 2.3, 40

INTERVENE = (
    ("intervene(), no receipt", False, False),
    ("intervene(), split, no receipt", False, True),
    ("intervene(), receipt", True, False),
    ("intervene(), split, receipt", True, True),
)

Way = Callable[[Tensor, Tensor, Tensor], object]


class Times(NamedTuple):
    """A median, and its ratios to the kernel's."""

    seconds: float
    wall: float
    cpu: float


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


def times(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, Times]:
    tensors = draw(args.heads, args.tokens, args.dim, dtype)
    ways = {n: w for n, w in WAYS.items() if args.explicit or not n.startswith("explicit")}
    with torch.no_grad():
        found = ratios(ways, tensors, args.repeats)
        for name, receipt, split in INTERVENE:
            model = Attention()
            edit = sk.Edit(sk.TopMass(keys_per_head=KEYS_PER_HEAD), sk.Mask())
            with sk.intervene(model, edit, receipt=receipt, split=split):
                model(*tensors)  # what is asked once per block
                found |= ratios({"sdpa beside it": WAYS["sdpa"], name: model}, tensors, args.repeats)
    return found


def ratios(ways: Mapping[str, Way], tensors: tuple[Tensor, Tensor, Tensor], repeats: int) -> dict[str, Times]:
    """Medians, as ratios to the first way."""
    clocks = interleaved({name: partial(way, *tensors) for name, way in ways.items()}, repeats)
    cpu, wall = next(iter(clocks.values())).median()
    return {
        name: Times(clock.median()[1], clock.median()[1] / wall, clock.median()[0] / cpu)
        for name, clock in clocks.items()
    }


def memory(name: str, args: argparse.Namespace) -> float | None:
    """MiB beyond the inputs, in a process of its own; None where the machine has too little."""
    if name.startswith("explicit") and 16 * args.peak_heads * args.tokens**2 > available():
        return None
    sizes = map(str, (args.peak_heads, args.tokens, args.dim, args.threads))
    command = [sys.executable, __file__, "--peak", name, args.dtypes[0], *sizes]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak(name: str, dtype: str, heads: str, tokens: str, dim: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    kept = []
    with torch.no_grad():
        WAYS[name](*draw(2, 32, int(dim), DTYPES[dtype]))  # libraries load
        tensors = draw(int(heads), int(tokens), int(dim), DTYPES[dtype])
        print(peak_of(lambda: kept.append(WAYS[name](*tensors))))


def available() -> int:
    """Bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def table(args: argparse.Namespace, found: Mapping[str, Mapping[str, Times]]) -> list[str]:
    names = [name for name in next(iter(found.values())) if not name.startswith("sdpa")]
    titles = [title for kind in args.dtypes for title in (f"{kind} wall", "processor", "explicit")]
    rows = [f"| way | bar | {' | '.join(titles)} | peak MiB |", "| --- |" + " --- |" * (len(titles) + 2)]
    for name in ("sdpa", *names):
        cells = []
        for kind in args.dtypes:
            mine, explicit = found[kind][name], found[kind].get(f"explicit {name}")
            cells += [f"{mine.wall:.2f}", f"{mine.cpu:.2f}"]
            cells.append(f"{explicit.wall / mine.wall:.1f}" if explicit else "")
        used = memory(name, args) if args.memory and name in WAYS else None
        bar = f"<= {BARS[name]}" if name in BARS else ""
        rows.append(f"| {name} | {bar} | {' | '.join(cells)} | {'' if used is None else f'{used:.0f}'} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4429)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
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
    found = {name: times(args, DTYPES[name]) for name in args.dtypes}
    alone = ", ".join(f"{1000 * found[n]['sdpa'].seconds / args.heads:.0f} ms per head in {n}" for n in found)
    print(
        f"{args.heads} heads, {args.tokens} tokens, head size {args.dim}; {machine(args.threads)}; "
        f"medians of {args.repeats} rounds as ratios to `F.scaled_dot_product_attention` (here {alone}).\n"
    )
    print("\n".join(table(args, found)))
    print(
        f"\n`explicit`: how many times as long the explicit matrix takes (wall); the bar is {SPEEDUP}. Peak: "
        f"beyond q, k, v, with outputs, at {args.peak_heads} heads in {args.dtypes[0]}; the bar is {MEMORY}."
    )


if __name__ == "__main__":
    main()
