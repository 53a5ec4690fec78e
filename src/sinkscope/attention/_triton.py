"""Backend "triton": exact attention statistics on a GPU in two kernels, memory O(tokens).

The row pass (log-sum-exp, entropy, largest weight, output) and the column pass (incoming mass of every query
group) are in `_triton_kernels`; this file prepares their arguments and says which calls they can run. Nothing
of triton is imported until a call runs. Strided q, k, v and broadcast masks are read in place.

Guarantees: float32 inside, no atomics, block sizes that do not depend on the batch: the same call gives the
same bits, and the numbers of a row do not depend on the other rows. Not yet measured on a GPU: speed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._operands import Operands, four_axes
from ._rowblock import Raw

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD = 256
ENOUGH_PROGRAMS = 512
"""A column pass of fewer programs is cut along the queries."""


class Blocks(NamedTuple):
    """Queries and keys per step of a kernel (powers of two, 16 or more), and its threads in groups of 32."""

    queries: int
    keys: int
    warps: int = 4


def refusal(ops: Operands) -> str | None:
    """Why the kernels cannot run this call; None if they can."""
    tensors = [t for t in (ops.q, ops.k, ops.v) if t is not None]
    dtypes = [t.dtype for t in tensors]
    largest = max(t.shape[-1] for t in tensors)
    if _missing():
        return f"the package triton cannot be imported ({_missing()}); pip install 'sinkscope[gpu]'"
    if any(dtype not in DTYPES for dtype in dtypes):
        names = ", ".join(sorted({str(dtype) for dtype in dtypes}))
        return f"q, k, v are {names}; it computes float16, bfloat16 and float32"
    if not 1 <= largest <= LARGEST_HEAD:
        return f"the head size is {largest}; it takes 1 to {LARGEST_HEAD}"
    if len(ops.masks) > 2:
        return f"the call has {len(ops.masks)} masks; it takes two"
    if min(ops.q.numel(), ops.k.numel()) == 0:
        return "the call is empty"
    if ops.q.device.type != "cuda" and not (ops.q.device.type == "cpu" and _interpreted()):
        return f"the tensors are on {ops.q.device}; it runs on CUDA devices"
    return None


def run(ops: Operands, weights: Tensor, want: Collection[str], blocks: Blocks | None = None) -> Raw:
    """Measure one attention call; see `Backend` for the arguments.

    Args:
        ops: The call.
        weights: [row or 1, head or 1, group, query].
        want: Any of mass, lse, entropy, max_weight, concentration, output, max_activation.
        blocks: Block sizes; None picks them by head size and dtype.
    """
    with _on(ops, blocks) as sizes:
        return _run(ops, weights, want, sizes)


def columns(ops: Operands, lse: Tensor, weights: Tensor, want: Collection[str]) -> Raw:
    """Mass and entropy of a call whose log-sum-exp is known: the column pass alone.

    Args:
        ops: The call.
        lse: [row, head, query], finite.
        weights: [row or 1, head or 1, group, query].
        want: Any of mass, entropy.
    """
    lse = lse.contiguous()  # kernels hand it over as [row, query, head]
    with _on(ops) as blocks:
        top = lse / _unit(ops)
        entropy = "entropy" in want
        mass, bits = _column_pass(ops, top, weights.float(), blocks, _arguments(ops, blocks), entropy)
    nats = None if bits is None else bits.sum(-1) * -math.log(2.0)
    return Raw(mass=mass if "mass" in want else None, entropy_sums=nats)


def merge(few: Operands, whole: Operands, bias: Tensor, rest: Tensor, lse: Tensor, hit: Tensor) -> Tensor:
    """Add a few keys to the output of all others; heads that miss are attended whole.

    Args:
        few: Queries with the keys to add and their values, at most 128.
        whole: The call with all keys, for heads that miss.
        bias: Added to the logits of the few keys, [row, head, few].
        rest: Output of the others, [row, head, query, dim], contiguous; overwritten.
        lse: Log-sum-exp of the others, [row, head, query].
        hit: Boolean [row, head]: the few keys are enough.

    Returns:
        `rest`, now the output of the edited call.
    """
    from ._triton_kernels import _merge

    assert few.v is not None  # an output is formed of values
    rows, heads, count, keys = few.shape
    chosen = hit.contiguous().view(torch.uint8)
    with _on(few) as blocks:
        half = few.v.dtype != torch.float32
        shared = _arguments(few, blocks)
        names = ("q", "k", "heads", "count", "keys", "scale", "DIM", "PAD", "WIDEN", "BM")
        strides = [f"{name}_{axis}" for name in "qk" for axis in ("row", "head", "token", "dim")]
        _merge[(-(-count // blocks.queries) * rows * heads,)](
            v=few.v,
            bias=bias.contiguous(),
            rest=rest,
            lse=lse.contiguous(),
            hit=chosen,
            **_strides("v", few.v),
            VDIM=few.v.shape[-1],
            VPAD=_padded(few.v.shape[-1]),
            KPAD=_padded(keys),
            VWIDEN=few.v.dtype == torch.bfloat16 and _interpreted(),
            SPLIT=half,
            enable_fp_fusion=True,
            **{name: shared[name] for name in (*names, *strides)},
        )
    with _on(whole) as blocks:
        _row_pass(whole, {"output"}, blocks, _arguments(whole, blocks), into=rest, only=1 - chosen)
    return rest


@contextmanager
def _on(ops: Operands, blocks: Blocks | None = None) -> Iterator[Blocks]:
    """Block sizes for a call, with its device the current one: triton launches there."""
    with torch.no_grad(), torch.autocast(ops.q.device.type, enabled=False):
        if ops.q.device.type != "cuda":
            yield blocks or Blocks(32, 32)
            return
        with torch.cuda.device(ops.q.device):
            yield blocks or pick_blocks(ops)


def pick_blocks(ops: Operands) -> Blocks:
    """Block sizes that fit the shared memory of common GPUs; chosen by head size and dtype alone."""
    size = _padded(max(ops.q.shape[-1], 1 if ops.v is None else ops.v.shape[-1]))
    wide = torch.float32 in (ops.q.dtype, ops.k.dtype, ops.q.dtype if ops.v is None else ops.v.dtype)
    if wide:  # exact products of float32 keep much in registers: fewer numbers per thread
        return Blocks(32, 32, 8) if size <= 64 else Blocks(16, 16, 8)
    if size > 128:
        return Blocks(32, 32)
    if size > 64:
        return Blocks(64, 64)
    return Blocks(128, 64) if _is_plain(ops) else Blocks(128, 64, 8)


def _run(ops: Operands, weights: Tensor, want: Collection[str], blocks: Blocks) -> Raw:
    shared = _arguments(ops, blocks)
    top, total, raw = _row_pass(ops, want, blocks, shared)
    if ops.masks:
        raw.alive = top > -torch.inf
    if "lse" in want:
        raw.lse = top * _unit(ops) + total.log()
    largest = torch.where(total == 0, 0.0, 1.0 / total)
    if {"max_weight", "concentration"} & set(want):
        raw.peak = largest
    if "mass" in want:
        scaled = weights.float() * largest[:, :, None]
        raw.mass, _ = _column_pass(ops, top, scaled, blocks, shared, False)
    return raw


def _row_pass(
    ops: Operands,
    want: Collection[str],
    blocks: Blocks,
    shared: dict[str, Any],
    *,
    into: Tensor | None = None,
    only: Tensor | None = None,
) -> tuple[Tensor, Tensor, Raw]:
    """Largest logit, sum of exponentials, and the rest.

    With `into` the output is written there, and only that of heads which `only` [row, head] names.
    """
    from ._triton_kernels import _rowlse

    rows, heads, count, _ = ops.shape
    top, total = (ops.q.new_empty(rows, heads, count, dtype=torch.float32) for _ in range(2))
    raw = Raw(entropy=torch.empty_like(top) if "entropy" in want else None)
    output = None
    v = ops.k  # stands in where no output is wanted: never read
    if ops.v is not None and {"output", "max_activation"} & set(want):
        v = ops.v
        output = into
        if into is None:
            output = ops.q.new_empty(rows, heads, count, v.shape[-1], dtype=torch.float32)
    half = v.dtype != torch.float32
    _rowlse[(-(-count // blocks.queries) * rows * heads,)](
        v=v,
        top=top,
        total=total,
        entropy=top if raw.entropy is None else raw.entropy,
        out=top if output is None else output,
        only=top if only is None else only,
        **_strides("v", v),
        VDIM=v.shape[-1],
        VPAD=_padded(v.shape[-1]),
        ENTROPY=raw.entropy is not None,
        OUTPUT=output is not None,
        VWIDEN=v.dtype == torch.bfloat16 and _interpreted(),
        SPLIT=half,
        PICKED=only is not None,
        **_roomy(shared, output is not None),
    )
    if output is not None and into is None:
        raw.output = output if "output" in want else None
        raw.activation = output.abs().amax((-1, -2))
    return top, total, raw


def _column_pass(
    ops: Operands, top: Tensor, weights: Tensor, blocks: Blocks, shared: dict[str, Any], entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """[row, head, group, key] sums of weight * p, and with `entropy` of weight * p * log2(p)."""
    from ._triton_kernels import _colsum

    rows, heads, count, keys = ops.shape
    weights = weights.expand(rows, heads, -1, count)
    groups = weights.shape[2]
    across = -(-keys // blocks.keys)
    # The cut must not depend on the number of rows: it decides in which order numbers are added.
    parts = max(1, min(ENOUGH_PROGRAMS // (across * heads), count // (4 * blocks.queries)))
    share = -(-count // (parts * blocks.queries)) * blocks.queries
    mass = top.new_empty(parts, rows, heads, groups, keys)
    bits = torch.empty_like(mass) if entropy else None
    _colsum[(across * rows * heads, parts, groups)](
        top=top,
        weights=weights.contiguous(),
        spans=_spans(weights),
        mass=mass,
        bits=mass if bits is None else bits,
        share=share,
        ENTROPY=entropy,
        **_roomy(shared, entropy),
    )
    added = (None if part is None else part[0] if parts == 1 else part.sum(0) for part in (mass, bits))
    found, more = added
    assert found is not None  # mass is always there
    return found, more


def _roomy(shared: dict[str, Any], crowded: bool) -> dict[str, Any]:
    """Twice the threads where a large block has a second set of accumulators, so that nothing spills."""
    return shared | {"num_warps": 8} if crowded and shared["BM"] > 64 else shared


def _spans(weights: Tensor) -> Tensor:
    """First and end of the queries with any weight, [group, 2] int32; worked out on the device."""
    used = (weights != 0).flatten(0, 1).any(0).int()
    count = used.shape[-1]
    first, behind = used.argmax(-1), used.flip(-1).argmax(-1)
    end = torch.where(used.any(-1), count - behind, 0)
    return torch.stack([first, end], dim=-1).int()


def _arguments(ops: Operands, blocks: Blocks) -> dict[str, Any]:
    """What both kernels are given."""
    _, heads, count, keys = ops.shape
    dim = ops.q.shape[-1]
    mixed = ops.q.dtype != ops.k.dtype
    found: dict[str, Any] = {
        "q": ops.q,
        "k": ops.k,
        "positions": ops.q if ops.positions is None else ops.positions.contiguous(),
        "heads": heads,
        "group": heads // ops.k.shape[1],
        "count": count,
        "keys": keys,
        "scale": ops.factor,
        "cap": 1.0 if ops.softcap is None else float(ops.softcap),
        "CAPPED": ops.softcap is not None,
        "PLAIN": _is_plain(ops),
        "DIM": dim,
        "PAD": _padded(dim),
        "CAUSAL": ops.is_causal,
        "PLACED": ops.positions is not None,
        # The interpreter multiplies the bit patterns of bfloat16 matrices; widened, they are right.
        "WIDEN": mixed or (ops.q.dtype == torch.bfloat16 and _interpreted()),
        "BM": blocks.queries,
        "BN": blocks.keys,
        "num_warps": blocks.warps,
        "enable_fp_fusion": True,  # said out loud, since triton's default changes between versions
        **_strides("q", ops.q),
        **_strides("k", ops.k),
    }
    masks = [four_axes(mask).expand(ops.shape) for mask in ops.masks]
    keyed = _is_plain(ops) and bool(masks)
    if keyed:
        masks = [_key_bias(ops).expand(ops.shape)]
    for index in range(2):
        mask, kind = ops.q, 0
        if index < len(masks):
            mask = masks[index]
            kind = 3 if keyed else 1 if mask.dtype == torch.bool else 2
        found[f"mask{index}"] = mask.view(torch.uint8) if kind == 1 else mask
        found[f"KIND{index}"] = kind
        names = ("row", "head", "query", "key")
        found |= {f"m{index}_{name}": step for name, step in zip(names, mask.stride(), strict=True)}
    return found


def _is_plain(ops: Operands) -> bool:
    """Whether the short way through the kernels is right; see `_triton_kernels`."""
    half = ops.q.dtype in (torch.float16, torch.bfloat16) and ops.k.dtype == ops.q.dtype
    keyed = all(four_axes(mask).shape[2] == 1 for mask in ops.masks)
    return half and keyed and not ops.is_causal and ops.softcap is None and ops.factor > 0


def _unit(ops: Operands) -> float:
    """What `top` of the kernels is counted in, in nats."""
    return (math.log(2.0) if ops.masks else ops.factor) if _is_plain(ops) else 1.0


def _key_bias(ops: Operands) -> Tensor:
    """Masks over keys alone as one number per key, in units of log 2: [row or 1, head or 1, 1, key]."""
    total: Tensor | float = 0.0
    for mask in map(four_axes, ops.masks):
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
        total = total + mask.float()
    assert isinstance(total, Tensor)  # there is a mask
    return total / math.log(2.0)


def _strides(name: str, tensor: Tensor) -> dict[str, int]:
    axes = ("row", "head", "token", "dim")
    return {f"{name}_{axis}": step for axis, step in zip(axes, tensor.stride(), strict=True)}


def _padded(size: int, least: int = 16) -> int:
    """The next power of two: sizes of blocks must be one."""
    return max(least, 1 << (size - 1).bit_length())


@cache
def _missing() -> str:
    """Why the kernels cannot be imported; empty if they can."""
    try:
        from . import _triton_kernels  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


def _interpreted() -> bool:
    from ._triton_kernels import INTERPRETED

    return INTERPRETED
