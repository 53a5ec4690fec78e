"""Row-block backend: exact attention statistics in one pass with memory O(tokens).

Queries are walked in blocks whose logits take about 6 MiB (CPU): one GEMM for the logits, softmax in place,
one thin GEMM for the weighted column sums of every query group, and, when wanted, one GEMM for the output.
Strided views of q, k, v ([row, token, head, dim] transposed) are walked without copying them whole: two heads
of keys at a time are laid out for the GEMM, their number padded to a multiple of 16, because rows of logits
that start off a cache line cost a tenth of the whole pass.

Guarantees: float32 inside (float64 for float64 input); the numbers of a row do not depend on the other rows
of its batch; a query without any key to attend to has weights 0, lse -inf and is reported as not alive.
Not guaranteed: speed on GPUs, where a fused kernel is the better tool.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ._operands import Operands, four_axes
from ._questions import deferring

CPU_BLOCK_BYTES = 25 * 2**18
DEVICE_BLOCK_BYTES = 64 * 2**20
LANES = 16
"""float32 numbers in a cache line"""
FAR_BELOW = -1e30
"""Several biases above this one cannot add up to -inf."""


class Block(NamedTuple):
    """Which part of the call a block covers."""

    rows: slice
    heads: slice
    queries: slice


WeightEdit = Callable[[Tensor, Block], Tensor]
"""Maps softmax weights [row, head, query, key] of a block to edited weights (may work in place)."""


@dataclass
class Raw:
    """What a backend hands back: sums over queries, and one number per query."""

    mass: Tensor | None = None
    """[row, head, group, key] weighted sum of softmax weights over queries"""
    alive: Tensor | None = None
    """[row, head, query] False where a query has no key to attend to; None = all alive"""
    lse: Tensor | None = None
    """[row, head, query] natural log"""
    entropy: Tensor | None = None
    """[row, head, query] nats"""
    entropy_sums: Tensor | None = None
    """[row, head, group] weighted sum of the queries' entropies, where they are not known one by one"""
    peak: Tensor | None = None
    """[row, head, query] largest weight of the query"""
    output: Tensor | None = None
    """[row, head, query, dim]"""
    activation: Tensor | None = None
    """[row, head] largest |output| of the queries that were walked"""


def plan_blocks(shape: tuple[int, int, int, int], span: range, limit: int, dim: int = 1) -> Iterator[Block]:
    """Cut [row, head, query, key] into blocks of at most `limit` logits (at least one query of two heads).

    Whether one row fits decides the cut, never the number of rows: so the numbers of a row do not depend on
    its batch.
    """
    rows, heads, _, keys = shape
    per_head = max(1, len(span) * keys)
    if heads * per_head <= limit:
        step = max(1, limit // (heads * max(per_head, dim * keys)))
        for start in range(0, rows, step):
            yield Block(slice(start, min(rows, start + step)), slice(0, heads), slice(span.start, span.stop))
        return
    chunk = min(heads, max(limit // per_head, 2))
    height = max(1, min(len(span), limit // (chunk * keys)))
    height -= height % LANES if height > LANES else 0
    for row in range(rows):
        for head in range(0, heads, chunk):
            for query in range(span.start, span.stop, height):
                stop = min(span.stop, query + height)
                yield Block(slice(row, row + 1), slice(head, min(heads, head + chunk)), slice(query, stop))


def block_logits(ops: Operands, block: Block, k: Tensor, buffer: Tensor) -> Tensor:
    """Masked logits [row, head, query, width] of one block; -inf beyond the keys.

    Args:
        ops: The call.
        block: Its rows, heads and queries.
        k: Keys its heads read, [row * head, dim, width], in the compute dtype.
        buffer: Memory the logits are written to.
    """
    dtype, keys = k.dtype, ops.k.shape[2]
    q = ops.q[block.rows, block.heads, block.queries].to(dtype)
    shape = (*q.shape[:3], k.shape[-1])
    flat = buffer[: math.prod(shape)].view(shape[0] * shape[1], shape[2], shape[3])
    torch.baddbmm(flat, q.flatten(0, 1), k, beta=0, alpha=ops.factor, out=flat)
    logits = flat.view(shape)
    inside = logits[..., :keys]
    if ops.softcap is not None:
        inside.div_(ops.softcap).tanh_().mul_(ops.softcap)
    for mask in ops.masks:
        part = _part(mask, block)
        if part.dtype == torch.bool:
            inside.masked_fill_(~part, float("-inf"))
        else:
            inside.add_(part.to(dtype))
    if ops.is_causal:
        inside.masked_fill_(_hidden(ops, block, keys), float("-inf"))
    if shape[3] > keys:
        logits[..., keys:] = float("-inf")
    return logits


def take_kv(t: Tensor, block: Block, heads: int) -> Tensor:
    """The kv rows that the heads of a block read, one per query head."""
    group = heads // t.shape[1]
    if group == 1:
        return t[block.rows, block.heads]
    first, last = block.heads.start // group, (block.heads.stop - 1) // group + 1
    part = t[block.rows, first:last].repeat_interleave(group, dim=1)
    return part[:, block.heads.start - first * group : block.heads.stop - first * group]


def _part(mask: Tensor, block: Block) -> Tensor:
    full = four_axes(mask)
    cut = tuple(part if size > 1 else slice(None) for size, part in zip(full.shape[:3], block, strict=True))
    return full[cut]


def _hidden(ops: Operands, block: Block, keys: int) -> Tensor:
    device = ops.q.device
    count = ops.q.shape[2]
    positions = torch.arange(count, device=device) if ops.positions is None else ops.positions
    return torch.arange(keys, device=device) > positions[block.queries, None]


def _surely_alive(ops: Operands) -> bool:
    """Whether masks over keys alone leave every row and head some key, so that no query has to be looked at.

    Two passes over every block of logits are saved, which is what makes a removal cheap to measure.
    """
    masks = [four_axes(mask) for mask in ops.masks]
    if ops.is_causal or deferring() or any(mask.shape[2] > 1 for mask in masks):
        return False
    parts = [mask[:, :, 0] if mask.dtype == torch.bool else mask[:, :, 0] > FAR_BELOW for mask in masks]
    return bool(functools.reduce(torch.logical_and, parts).any(-1).all())


class _Pass:
    """Buffers of one pass over the blocks; one method per stage of a block."""

    def __init__(
        self, ops: Operands, weights: Tensor, want: Collection[str], edit: WeightEdit | None, limit: int
    ) -> None:
        self.ops, self.weights, self.want, self.edit = ops, weights, want, edit
        rows, heads, queries, keys = ops.shape
        self.cut = heads * queries * keys > limit
        self.width = -(-keys // LANES) * LANES if self.cut else keys
        self.k = self.v = ops.q[:0]
        self._buffers: list[Tensor] = []
        self._held: tuple[slice, slice] | None = None
        self._held_memory: dict[str, Tensor] = {}
        self.raw = raw = Raw()

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=ops.compute_dtype, device=ops.q.device)

        if "mass" in want:
            raw.mass = zeros(rows, heads, weights.shape[-2], self.width)
        if ops.masks and not _surely_alive(ops):
            raw.alive = torch.ones(rows, heads, queries, dtype=torch.bool, device=ops.q.device)
        if "lse" in want:
            raw.lse = zeros(rows, heads, queries)
        if "entropy" in want:
            raw.entropy = zeros(rows, heads, queries)
        if {"max_weight", "concentration"} & set(want):
            raw.peak = zeros(rows, heads, queries)
        if ops.v is not None and "output" in want:
            raw.output = zeros(rows, heads, queries, ops.v.shape[-1])
        if "max_activation" in want:
            raw.activation = zeros(rows, heads)

    def walk(self, block: Block) -> None:
        self._hold(block)
        keep = "entropy" in self.want
        memory = self._memory(block, 2 if keep else 1)
        logits = block_logits(self.ops, block, self.k, memory[0])
        needs_top = self.raw.alive is not None or "lse" in self.want
        top = logits.amax(-1) if needs_top else None
        p = torch.softmax(logits, -1, out=memory[-1][: logits.numel()].view(logits.shape))
        if top is not None and self.raw.alive is not None:
            dead = top == float("-inf")
            self.raw.alive[block] = ~dead
            p.masked_fill_(dead[..., None], 0.0)
        self._per_query(block, p, top, logits if keep else None)
        if self.edit is not None:
            p = self.edit(p[..., : self.ops.k.shape[2]], block)
        self._sums(block, p)

    def _memory(self, block: Block, count: int) -> list[Tensor]:
        """Buffers for a block's logits; the first block is the largest, so later ones reuse them."""
        size = math.prod(part.stop - part.start for part in block) * self.width
        if not self._buffers or self._buffers[0].numel() < size:
            dtype, device = self.ops.compute_dtype, self.ops.q.device
            self._buffers = [torch.empty(size, dtype=dtype, device=device) for _ in range(count)]
        return self._buffers

    def _hold(self, block: Block) -> None:
        """Convert and repeat keys and values once for all query blocks of the same rows and heads."""
        if self._held == (block.rows, block.heads):
            return
        self._held = (block.rows, block.heads)
        ops, dtype = self.ops, self.ops.compute_dtype
        k = take_kv(ops.k, block, ops.q.shape[1]).flatten(0, 1).transpose(1, 2)
        self.k = self._laid_out("k", k, self.width) if self.cut else k.to(dtype)
        if ops.v is not None and {"output", "max_activation"} & set(self.want):
            v = take_kv(ops.v, block, ops.q.shape[1]).flatten(0, 1)
            self.v = self._laid_out("v", v, v.shape[-1]) if self.cut else v.to(dtype)

    def _laid_out(self, name: str, t: Tensor, width: int) -> Tensor:
        """A contiguous copy whose last axis is padded with zeros, in memory that is used again."""
        size = t.shape[0] * t.shape[1] * width
        if name not in self._held_memory or self._held_memory[name].numel() < size:
            self._held_memory[name] = torch.zeros(size, dtype=self.ops.compute_dtype, device=t.device)
        copy = self._held_memory[name][:size].view(*t.shape[:2], width)
        copy[..., : t.shape[-1]] = t
        return copy

    def _per_query(self, block: Block, p: Tensor, top: Tensor | None, logits: Tensor | None) -> None:
        raw = self.raw
        peak = p.amax(-1) if raw.lse is not None or raw.peak is not None or raw.entropy is not None else None
        if raw.peak is not None and peak is not None:
            raw.peak[block] = peak
        if raw.lse is not None and top is not None and peak is not None:
            # The weight of the best key is exp(top - lse); a query without keys has top -inf and weight 0.
            raw.lse[block] = torch.where(peak > 0, top - peak.log(), top)
        if raw.entropy is not None and logits is not None and peak is not None:
            floor = torch.finfo(p.dtype).min
            best = (logits.amax(-1) if top is None else top).clamp_min(floor)
            centred = logits.sub_(best[..., None])
            if self.ops.masks or self.ops.is_causal or self.width > self.ops.k.shape[2]:
                centred.clamp_min_(floor)
            raw.entropy[block] = torch.where(peak > 0, -peak.log() - torch.linalg.vecdot(p, centred), peak)

    def _sums(self, block: Block, p: Tensor) -> None:
        raw = self.raw
        rows, heads, _, width = p.shape
        flat = p.flatten(0, 1)
        if raw.mass is not None:
            part = self.weights[block.rows if self.weights.shape[0] > 1 else slice(None)]
            part = part[:, block.heads if part.shape[1] > 1 else slice(None), :, block.queries]
            part = part.expand(rows, heads, *part.shape[2:]).flatten(0, 1)
            # A block covers all heads or lies in one row, so this is a view of the sums.
            sums = raw.mass[block.rows, block.heads].flatten(0, 1)[..., :width]
            torch.baddbmm(sums, part, flat, out=sums)
        if raw.output is not None or raw.activation is not None:
            keys = self.v.shape[1]
            out = torch.bmm(flat[..., :keys], self.v).view(rows, heads, -1, self.v.shape[-1])
            if raw.output is not None:
                raw.output[block] = out
            if raw.activation is not None:
                seen = raw.activation[block.rows, block.heads]
                raw.activation[block.rows, block.heads] = torch.maximum(seen, out.abs().amax((-1, -2)))

    def result(self) -> Raw:
        """Everything measured, without the padding."""
        if self.raw.mass is not None:
            self.raw.mass = self.raw.mass[..., : self.ops.k.shape[2]]
        return self.raw


def rowblock(
    ops: Operands,
    weights: Tensor,
    want: Collection[str],
    *,
    edit: WeightEdit | None = None,
    limit_bytes: int | None = None,
) -> Raw:
    """Measure one attention call block by block.

    Args:
        ops: The call.
        weights: Query weights of every group, [row or 1, head or 1, group, query], in the compute dtype.
        want: Any of mass, lse, entropy, max_weight, concentration, output, max_activation.
        edit: Changes the softmax weights of each block before sums and output are formed.
        limit_bytes: Size of the logits of a block; None picks 6.25 MiB on the CPU and 64 MiB elsewhere.
    """
    if limit_bytes is None:
        limit_bytes = CPU_BLOCK_BYTES if ops.q.device.type == "cpu" else DEVICE_BLOCK_BYTES
    limit = max(1, limit_bytes // (8 if ops.compute_dtype == torch.float64 else 4))
    span = range(ops.shape[2])
    if set(want) <= {"mass", "max_weight", "entropy"} and not deferring():
        span = _used_span(weights)
    with torch.no_grad(), torch.autocast(ops.q.device.type, enabled=False):
        state = _Pass(ops, weights, want, edit, limit)
        for block in plan_blocks(ops.shape, span, limit, ops.q.shape[-1]):
            state.walk(block)
    return state.result()


def _used_span(weights: Tensor) -> range:
    """The smallest range of queries that holds every query with a weight."""
    used = (weights != 0).flatten(0, -2).any(0).nonzero()
    return range(int(used[0]), int(used[-1]) + 1) if len(used) else range(0)
