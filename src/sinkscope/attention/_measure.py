"""`measure` and `incoming_mass`: exact statistics of one attention call, memory O(tokens)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sinkscope.errors import UsageError, unknown

from . import _triton
from ._backends import pick_backend
from ._operands import OVERFLOW, Operands, blame, not_finite
from ._queries import QuerySet, group_weights
from ._questions import ask_finite, deferring, inputs_are_checked
from ._rowblock import Raw

STATISTICS = ("mass", "lse", "entropy", "max_weight", "concentration", "output", "max_activation")


@dataclass(frozen=True)
class Measurement:
    """Statistics of one attention call; what was not asked for is empty or None."""

    mass: dict[str, Tensor] = field(default_factory=dict)
    """group -> float32 [row, head, key]; sums to 1 over keys; NaN where a row has no query in the group"""
    entropy: dict[str, Tensor] = field(default_factory=dict)
    """group -> [row, head] mean entropy of the softmax rows, nats"""
    lse: Tensor | None = None
    """[row, head, query] natural log of the softmax normaliser; -inf where a query sees no key"""
    max_weight: dict[str, Tensor] = field(default_factory=dict)
    """group -> [row, head] largest single softmax weight"""
    concentration: Tensor | None = None
    """[row, head, query] largest softmax weight of each query; 0 where a query sees no key"""
    output: Tensor | None = None
    """[row, head, query, dim] in float32 (float64 for float64 input)"""
    max_activation: Tensor | None = None
    """[row, head] largest absolute entry of the output"""


def measure(
    q: Tensor,
    k: Tensor,
    v: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    softcap: float | None = None,
    queries: Mapping[str, QuerySet] | None = None,
    want: Collection[str] = ("mass",),
    row_weight: Tensor | None = None,
    backend: str | None = None,
    lse: Tensor | None = None,
) -> Measurement:
    """Measure one attention call in one pass over blocks of queries.

    Args:
        q: [row, head, query, dim].
        k: [row, kv_head, key, dim]; kv_head divides head.
        v: [row, kv_head, key, dim]; needed for "output" and "max_activation".
        mask: Boolean (True = keep) or additive, broadcastable to [row, head, query, key].
        scale: Factor on q.k; None means 1 / sqrt(dim).
        is_causal: Query i sees keys 0..i (top-left aligned).
        softcap: Logits become softcap * tanh(logits / softcap) before the mask; None leaves them.
        queries: Query groups by name; None means {"all": None}.
        want: Any of "mass", "lse", "entropy", "max_weight", "concentration", "output",
            "max_activation".
        row_weight: Weight of each query (each softmax row) in the means of mass and entropy, >= 0, [query],
            [row, query] or [row, head, query]. None weighs all alike.
        backend: Name of a registered backend; None picks one that suits the call.
        lse: Float32 [row, head, query], the log-sum-exp of the logits where the model's kernel gave it away:
            saves GPU kernels half their work where no more than mass and entropy are wanted.

    Raises:
        UsageError: Shapes, groups or statistics that do not exist or fit, or a named backend that cannot run
            this call.
        NonFiniteError: NaN or infinity in q, k or v.
    """
    for name in want:
        if name not in STATISTICS:
            raise unknown("attention statistic", name, STATISTICS)
    if v is None and {"output", "max_activation"} & set(want):
        raise UsageError("Statistics 'output' and 'max_activation' were asked for without values. Pass v.")
    masks = () if mask is None else (mask,)
    ops = Operands(q, k, v, masks=masks, scale=scale, is_causal=is_causal, softcap=softcap)
    groups = {"all": None} if queries is None else queries
    if not groups:
        raise UsageError(
            "Got an empty mapping of query groups; expected at least one. Pass None for all queries."
        )
    rows, heads, count, _ = ops.shape
    member = group_weights(groups, rows=rows, count=count, device=q.device).to(ops.compute_dtype)
    weights = member[:, None]
    if row_weight is not None:
        weights = weights * _per_query(row_weight, ops)[:, :, None]
    check_inputs(ops)
    run = pick_backend(backend, ops)
    if lse is not None and run is _triton.run and set(want) <= {"mass", "entropy"}:
        raw = _triton.columns(ops, lse, weights, want)
    else:
        raw = run(ops, weights, frozenset(want))
    return reduced(raw, ops, list(groups), weights, frozenset(want))


def incoming_mass(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    queries: QuerySet = None,
    *,
    is_causal: bool = False,
) -> Tensor:
    """Incoming attention mass: the mean softmax weight each key gets from the chosen queries.

    m_j = (1 / n) sum_i softmax(scale q_i.k + mask)_j over the n chosen queries that see at least one key.

    Args:
        q: [row, head, query, dim].
        k: [row, kv_head, key, dim].
        mask: Boolean (True = keep) or additive, broadcastable to [row, head, query, key].
        scale: Factor on q.k; None means 1 / sqrt(dim).
        queries: None = all, a slice, an index tensor [n], or a boolean tensor [query] or [row, query].
        is_causal: Query i sees keys 0..i.

    Returns:
        float32 [row, head, key]; sums to 1 over keys.

    Example:
        >>> import torch
        >>> q = k = torch.zeros(1, 1, 4, 8)
        >>> incoming_mass(q, k)
        tensor([[[0.2500, 0.2500, 0.2500, 0.2500]]])
    """
    return measure(q, k, mask=mask, scale=scale, is_causal=is_causal, queries={"chosen": queries}).mass[
        "chosen"
    ]


def query_totals(raw: Raw, weights: Tensor, heads: int) -> Tensor:
    """Sum of the weights of the queries that see any key: [row or 1, head, group]."""
    if raw.alive is not None:
        weights = weights * raw.alive[:, :, None]
    return weights.sum(-1).expand(-1, heads, -1)


def _per_query(row_weight: Tensor, ops: Operands) -> Tensor:
    rows, heads, count, _ = ops.shape
    full = row_weight.reshape((1,) * (2 - row_weight.dim()) + tuple(row_weight.shape))
    full = full[:, None] if full.dim() == 2 else full
    fits = (
        full.dim() == 3
        and full.shape[0] in (1, rows)
        and full.shape[1] in (1, heads)
        and full.shape[2] == count
    )
    if not fits:
        raise UsageError(
            f"Got row_weight of shape {tuple(row_weight.shape)}; expected [{count}], [{rows}, {count}] or "
            f"[{rows}, {heads}, {count}]."
        )
    return full.to(device=ops.q.device, dtype=ops.compute_dtype)


def reduced(raw: Raw, ops: Operands, names: list[str], weights: Tensor, want: frozenset[str]) -> Measurement:
    """Means over the queries of each group, checked for NaN and infinity.

    Args:
        raw: Sums, as a backend handed them back.
        ops: The call.
        names: Names of the query groups.
        weights: [row or 1, head or 1, group, query].
        want: What was asked for.
    """
    totals = query_totals(raw, weights, ops.shape[1])
    _check_finite(raw, ops, totals, want)
    mass, entropy, peak = {}, {}, {}
    for index, name in enumerate(names):
        total, part = totals[..., index], weights[:, :, index]
        if raw.mass is not None and "mass" in want:
            mass[name] = (raw.mass[:, :, index] / total[..., None]).float()
        if raw.entropy is not None and "entropy" in want:
            entropy[name] = (raw.entropy * part).sum(-1) / total
        elif raw.entropy_sums is not None:
            entropy[name] = raw.entropy_sums[..., index] / total
        if raw.peak is not None and "max_weight" in want:
            largest = torch.where(part > 0, raw.peak, 0.0).amax(-1)
            peak[name] = torch.where(total > 0, largest, torch.nan)
    return Measurement(
        mass=mass,
        entropy=entropy,
        lse=raw.lse if "lse" in want else None,
        max_weight=peak,
        concentration=raw.peak if "concentration" in want else None,
        output=raw.output if "output" in want else None,
        max_activation=raw.activation if "max_activation" in want else None,
    )


def check_inputs(ops: Operands) -> None:
    """Refuse NaN and infinity in what the model hands to its attention."""
    if deferring():
        if not inputs_are_checked():
            ask_finite({"q": ops.q, "k": ops.k, "v": ops.v}, not_finite)
    elif not _all_finite([t.detach() for t in (ops.q, ops.k, ops.v) if t is not None]):
        raise blame(ops)


def _check_finite(raw: Raw, ops: Operands, totals: Tensor, want: frozenset[str]) -> None:
    checks = [raw.mass, raw.entropy, raw.entropy_sums, raw.peak, raw.output, raw.activation, totals]
    if raw.lse is not None:
        checks.append(raw.lse if raw.alive is None else torch.where(raw.alive, raw.lse, 0.0))
    if deferring():
        for tensor in checks:
            ask_finite({OVERFLOW: tensor}, not_finite)
    elif not _all_finite([t for t in checks if t is not None]):
        raise blame(ops)


def _all_finite(tensors: list[Tensor]) -> bool:
    # A sum is one cheap pass and never hides NaN or infinity; one that overflows in float16 is no proof.
    # Sums in another dtype, and `isfinite`, would first build a tensor of the size of q.
    total = torch.stack([t.sum().float() for t in tensors]).sum()
    return bool(torch.isfinite(total)) or all(
        bool(torch.stack(t.aminmax()).isfinite().all()) for t in tensors if t.numel()
    )
