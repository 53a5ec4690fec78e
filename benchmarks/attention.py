"""What one attention call costs: `python benchmarks/attention.py [--heads 24] [--markdown]`.

Ratios of medians to one `F.scaled_dot_product_attention` call in the same process. All ways are timed in turn,
round after round, so that a busy machine slows all of them alike. Peak memory is that of a process of its own
per way, outputs included, beyond what q, k, v take.

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
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sinkscope as sk
from sinkscope.attention import Mask, ResolvedEdit, apply_edits, incoming_mass, measure

KEYS_PER_HEAD = 5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Way = Callable[[Tensor, Tensor, Tensor], object]
BARS = {"measure": 0.85, "measure + output": 1.3, "measure + removal": 1.9}
SPEEDUP = 2.3
MEMORY = 40.0


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


MODEL = nn.Sequential()
MODEL.add_module("attn", Attention())


def intervene(q: Tensor, k: Tensor, v: Tensor, receipt: bool = False) -> Tensor:
    edit = sk.Edit(sk.TopMass(keys_per_head=KEYS_PER_HEAD), sk.Mask())
    with sk.intervene(MODEL.attn, edit, receipt=receipt):
        return MODEL.attn(q, k, v)


def weights(q: Tensor, k: Tensor) -> Tensor:
    """The whole matrix, as the paper's code builds it."""
    return torch.softmax((q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5, -1)


def explicit_mass(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return weights(q, k).mean(-2)


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
    "intervene(), no receipt": intervene,
    "intervene(), receipt": partial(intervene, receipt=True),
    "explicit measure": explicit_mass,
    "explicit measure + output": explicit_output,
    "explicit measure + removal": explicit_remove,
}


def draw(heads: int, tokens: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Strided views; a few keys of every head take much of the mass."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, tokens, heads, dim, generator=g) for _ in range(3))
    k[:, :KEYS_PER_HEAD] += 0.4 * q.mean(1, keepdim=True).sign()
    return tuple(t.to(dtype).transpose(1, 2) for t in (q, k, v))  # type: ignore[return-value]


def times(args: argparse.Namespace, dtype: torch.dtype) -> dict[str, list[float]]:
    tensors = draw(args.heads, args.tokens, args.dim, dtype)
    ways = {n: w for n, w in WAYS.items() if args.explicit or not n.startswith("explicit")}
    found: dict[str, list[float]] = {name: [] for name in ways}
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    with torch.no_grad():
        for turn in range(args.repeats + 1):
            for name, way in ways.items():
                began = clock()
                way(*tensors)
                if turn:  # the first round warms up
                    found[name].append(clock() - began)
    return found


def memory(name: str, heads: int, args: argparse.Namespace, dtype: str) -> float | None:
    """MiB beyond the inputs, in a process of its own; None where it was not run."""
    need = heads * args.tokens**2 * 4 * 4
    if name.startswith("explicit") and need > _available():
        return None
    sizes = [heads, args.tokens, args.dim, args.threads]
    command = [sys.executable, __file__, "--peak", name, dtype, *map(str, sizes)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak(name: str, dtype: str, heads: str, tokens: str, dim: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    way = WAYS[name]
    with torch.no_grad():
        way(*draw(2, 32, int(dim), DTYPES[dtype]))  # libraries load
        tensors = draw(int(heads), int(tokens), int(dim), DTYPES[dtype])
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _status("VmRSS")
        kept = way(*tensors)
        print((_status("VmHWM") - before) / 1024)
        del kept


def _status(name: str) -> int:
    return next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line
    )


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def table(args: argparse.Namespace) -> list[str]:
    rows = [
        "| way | "
        + " | ".join(f"{d}: to SDPA | explicit / it" for d in args.dtypes)
        + " | peak MiB, 24 heads |"
    ]
    rows.append("| --- |" + " --- |" * (2 * len(args.dtypes) + 1))
    found = {name: times(args, DTYPES[name]) for name in args.dtypes}
    for name in next(iter(found.values())):
        cells = []
        for kind in args.dtypes:
            mid = {n: statistics.median(t) for n, t in found[kind].items()}
            explicit = mid.get(f"explicit {name}")
            if name == "sdpa":
                cells += [f"1 ({mid[name] * 1000 / args.heads:.0f} ms per head)", ""]
            else:
                cells += [f"{mid[name] / mid['sdpa']:.2f}", f"{explicit / mid[name]:.1f}" if explicit else ""]
        used = memory(name, args.peak_heads, args, args.dtypes[0]) if args.memory else None
        rows.append(f"| {name} | " + " | ".join(cells) + f" | {'-' if used is None else f'{used:.0f}'} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4429)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds of all threads"
    )
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
        f"torch {torch.__version__}, {platform.machine()}, medians of {args.repeats} rounds\n"
    )
    print("\n".join(table(args)))
    bars = ", ".join(f"{name} <= {bar}" for name, bar in BARS.items())
    print(f"\nbars: {bars}; at least {SPEEDUP} times as fast as explicit; at most {MEMORY:.0f} MiB")


if __name__ == "__main__":
    main()
