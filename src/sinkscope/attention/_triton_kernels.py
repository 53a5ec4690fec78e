"""The Triton kernels behind backend "triton"; importing this file needs the package triton.

`_rowlse` walks the keys of a block of queries once: log-sum-exp, entropy, largest weight and, when wanted,
the output. `_colsum` swaps the roles: a block of keys walks the queries in fixed order and adds up their
softmax weights, which need no running maximum because the row pass has left one.

Both work in float32 whatever the inputs are; nothing is added atomically, so results repeat to the bit.
Products are exact: half types go through the matrix units with float32 sums, float32 through "ieee" products
(the default would round to TF32). Softmax is taken from logit minus maximum, not minus log-sum-exp: that
keeps the digits of weights whose logits are large.

PLAIN calls (half types, no cap, positive scale, at most masks over keys alone) are kept to about five
instructions per logit, so that the exponential is the limit: `top` is then the largest q.k, without the
scale, and one fused multiply-add gives the exponent. What it rounds, `top * scale`, is the same number in
both kernels, so the weights do not feel it. Masks over keys alone come as one number per key (kind 3, to be
added in units of log 2, in which `top` is then too).

Loads and masks are written out where they are used: each call of another jitted function makes the rest of a
launch slower in Triton's interpreter, in which the tests run. Masks have a kind: 0 none, 1 boolean (as
bytes), 2 additive, 3 see below.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def _rowlse(
    q, k, v, mask0, mask1, positions, top, total, entropy, out, only,
    heads, group, count, keys, scale, cap,
    q_row, q_head, q_token, q_dim,
    k_row, k_head, k_token, k_dim,
    v_row, v_head, v_token, v_dim,
    m0_row, m0_head, m0_query, m0_key,
    m1_row, m1_head, m1_query, m1_key,
    DIM: tl.constexpr, PAD: tl.constexpr, VDIM: tl.constexpr, VPAD: tl.constexpr,
    KIND0: tl.constexpr, KIND1: tl.constexpr, CAUSAL: tl.constexpr, PLACED: tl.constexpr,
    CAPPED: tl.constexpr, PLAIN: tl.constexpr,
    ENTROPY: tl.constexpr, OUTPUT: tl.constexpr, WIDEN: tl.constexpr, VWIDEN: tl.constexpr,
    SPLIT: tl.constexpr, PICKED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Per query: largest logit, sum of exp(logit - largest), entropy in nats, output.

    One program per block of BM queries of a head. Written as [row, head, query], contiguous; `out` as
    [row, head, query, VDIM]. A query without keys gets -inf, 0, 0 and zeros. With PICKED, heads whose
    entry of `only` [row, head] is 0 are passed over and nothing is written for them.
    """
    blocks = (count + BM - 1) // BM
    block, cell = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    row, head = (cell // heads).to(tl.int64), (cell % heads).to(tl.int64)
    kv = head // group
    rows = block * BM + tl.arange(0, BM)
    dims, vdims = tl.arange(0, PAD), tl.arange(0, VPAD)
    qs = tl.load(
        q + row * q_row + head * q_head + rows.to(tl.int64)[:, None] * q_token + dims[None, :] * q_dim,
        mask=(rows[:, None] < count) & (dims[None, :] < DIM),
        other=0.0,
    )
    if WIDEN:
        qs = qs.to(tl.float32)
    k += row * k_row + kv * k_head
    v += row * v_row + kv * v_head
    mask0 += row * m0_row + head * m0_head
    mask1 += row * m1_row + head * m1_head
    place = rows
    if PLACED:
        place = tl.load(positions + rows, mask=rows < count, other=0)
    best = tl.full([BM], float("-inf"), tl.float32)
    sums = tl.full([BM], 0.0, tl.float32)
    spread = tl.full([BM], 0.0, tl.float32)
    acc = tl.full([BM, VPAD], 0.0, tl.float32)
    stop = keys
    if CAUSAL and not PLACED:
        stop = tl.minimum(keys, (block + 1) * BM)
    written = count
    if PICKED:
        picked = tl.load(only + cell).to(tl.int32)
        stop, written = stop * picked, count * picked
    steep = scale * LOG2E
    whole = keys // BN * BN
    for part in tl.static_range(0, 2):  # whole blocks of keys need no look at their end
        for start in range(part * whole, stop if part == 1 else tl.minimum(stop, whole), BN):
            columns = start + tl.arange(0, BN)
            ks = tl.load(
                k + columns.to(tl.int64)[:, None] * k_token + dims[None, :] * k_dim,
                mask=(columns[:, None] < keys) & (dims[None, :] < DIM),
                other=0.0,
            )
            if WIDEN:
                ks = ks.to(tl.float32)
            s = tl.dot(qs, tl.trans(ks), input_precision="ieee")
            if not PLAIN:
                s *= scale
            if CAPPED:  # cap * tanh(s / cap); its exponential may overflow, the result does not
                s = cap * (1.0 - 2.0 / (tl.exp2(s * (2.0 * LOG2E / cap)) + 1.0))
            if KIND0 == 3:  # only where PLAIN
                bias = tl.load(mask0 + columns * m0_key, mask=columns < keys, other=float("-inf"))
                s = tl.fma(s, tl.full([BM, BN], steep, tl.float32), tl.broadcast_to(bias[None, :], [BM, BN]))
            inside = (rows[:, None] < count) & (columns[None, :] < keys)
            if KIND0 == 1 or KIND0 == 2:
                found0 = tl.load(
                    mask0 + rows.to(tl.int64)[:, None] * m0_query + columns.to(tl.int64)[None, :] * m0_key,
                    mask=inside,
                    other=0,
                )
                if KIND0 == 1:
                    s = tl.where(found0 != 0, s, float("-inf"))
                else:
                    s += found0.to(tl.float32)
            if KIND1 != 0:
                found1 = tl.load(
                    mask1 + rows.to(tl.int64)[:, None] * m1_query + columns.to(tl.int64)[None, :] * m1_key,
                    mask=inside,
                    other=0,
                )
                if KIND1 == 1:
                    s = tl.where(found1 != 0, s, float("-inf"))
                else:
                    s += found1.to(tl.float32)
            if CAUSAL:
                s = tl.where(columns[None, :] <= place[:, None], s, float("-inf"))
            if part == 1 and KIND0 != 3:
                s = tl.where(columns[None, :] < keys, s, float("-inf"))
            new = tl.maximum(best, tl.max(s, 1))
            if KIND0 == 3:
                safe = tl.where(new == float("-inf"), 0.0, new)
                moved = best - safe
                shrink = tl.exp2(moved)
                centred = s - safe[:, None]
                p = tl.exp2(centred)
            elif PLAIN:  # every block holds a key of every query, so no maximum is -inf
                centre = new * steep
                moved = best * steep - centre
                shrink = tl.exp2(moved)
                centred = tl.fma(s, steep, -centre[:, None])
                p = tl.exp2(centred)
            else:
                safe = tl.where(new == float("-inf"), 0.0, new)
                moved = tl.where(best == float("-inf"), 0.0, best - safe)
                shrink = tl.where(best == float("-inf"), 0.0, tl.exp2(moved * LOG2E))
                centred = s - safe[:, None]
                p = tl.exp2(centred * LOG2E)
            if ENTROPY:
                moved = tl.where(best == float("-inf"), 0.0, moved)
                seen = centred
                if (
                    part == 1 or KIND0 == 3 or not PLAIN
                ):  # a logit of -inf has weight 0, and 0 * inf is no number
                    seen = tl.where(p > 0, centred, 0.0)
                spread = shrink * (spread + sums * moved) + tl.sum(p * seen, 1)
            sums = sums * shrink + tl.sum(p, 1)
            if OUTPUT:
                vs = tl.load(
                    v + columns.to(tl.int64)[:, None] * v_token + vdims[None, :] * v_dim,
                    mask=(columns[:, None] < keys) & (vdims[None, :] < VDIM),
                    other=0.0,
                )
                if VWIDEN:
                    vs = vs.to(tl.float32)
                acc *= shrink[:, None]
                if SPLIT:  # two half numbers hold 16 or more digits of a weight: fit for the matrix units
                    half = v.dtype.element_ty
                    high = p.to(half)
                    low = (p - high.to(tl.float32)).to(half)
                    acc += tl.dot(high.to(vs.dtype), vs, input_precision="ieee")
                    acc += tl.dot(low.to(vs.dtype), vs, input_precision="ieee")
                else:
                    acc += tl.dot(p, vs, input_precision="ieee")
            best = new
    at = cell.to(tl.int64) * count + rows
    tl.store(top + at, best, mask=rows < written)
    tl.store(total + at, sums, mask=rows < written)
    some = tl.where(sums == 0, 1.0, sums)
    if ENTROPY:
        if PLAIN:
            spread *= LN2
        tl.store(entropy + at, tl.log(some) - spread / some, mask=rows < written)
    if OUTPUT:
        inside = (rows[:, None] < written) & (vdims[None, :] < VDIM)
        tl.store(out + at[:, None] * VDIM + vdims[None, :], acc / some[:, None], mask=inside)


@triton.jit
def _colsum(
    q, k, mask0, mask1, positions, top, weights, spans, mass, bits,
    heads, group, count, keys, scale, cap, share,
    q_row, q_head, q_token, q_dim,
    k_row, k_head, k_token, k_dim,
    m0_row, m0_head, m0_query, m0_key,
    m1_row, m1_head, m1_query, m1_key,
    DIM: tl.constexpr, PAD: tl.constexpr, ENTROPY: tl.constexpr,
    KIND0: tl.constexpr, KIND1: tl.constexpr, CAUSAL: tl.constexpr, PLACED: tl.constexpr,
    CAPPED: tl.constexpr, PLAIN: tl.constexpr,
    WIDEN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Per key and query group: sum over queries of weight * p, with p = exp(logit - top of the query).

    One program per block of BN keys of a head, per `share` queries (a multiple of BM) and per group; it walks
    the queries in the group's entry of `spans` [group, first and end]. Parts are written side by side as
    [part, row, head, group, key] and added by the caller. `weights` [row, head, group, query] are 0 where a
    query has no key, and already divided by the query's sum of exponentials unless `top` is its log-sum-exp.
    With ENTROPY (then it has to be) `bits`, of the same shape, is the sum of weight * p * log2(p).
    """
    blocks = (keys + BN - 1) // BN
    block, cell = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    row, head = (cell // heads).to(tl.int64), (cell % heads).to(tl.int64)
    columns = block * BN + tl.arange(0, BN)
    dims = tl.arange(0, PAD)
    one, groups = tl.program_id(2), tl.num_programs(2)
    k_base = k + row * k_row + (head // group) * k_head
    ks = tl.load(
        k_base + columns.to(tl.int64)[:, None] * k_token + dims[None, :] * k_dim,
        mask=(columns[:, None] < keys) & (dims[None, :] < DIM),
        other=0.0,
    )
    if WIDEN:
        ks = ks.to(tl.float32)
    q += row * q_row + head * q_head
    mask0 += row * m0_row + head * m0_head
    mask1 += row * m1_row + head * m1_head
    if KIND0 == 3:
        bias = tl.load(mask0 + columns * m0_key, mask=columns < keys, other=0.0)
    top += cell.to(tl.int64) * count
    weights += (cell.to(tl.int64) * groups + one) * count
    sums = tl.full([BM, BN], 0.0, tl.float32)
    spread = tl.full([BM, BN], 0.0, tl.float32)
    steep = scale * LOG2E
    first = tl.program_id(1) * share
    begin = tl.maximum(first, tl.load(spans + 2 * one) // BM * BM)
    end = tl.minimum(tl.minimum(first + share, count), tl.load(spans + 2 * one + 1))
    if CAUSAL and not PLACED:  # earlier queries see none of these keys
        begin = tl.maximum(begin, block * BN // BM * BM)
    for start in range(begin, end, BM):
        rows = start + tl.arange(0, BM)
        qs = tl.load(
            q + rows.to(tl.int64)[:, None] * q_token + dims[None, :] * q_dim,
            mask=(rows[:, None] < count) & (dims[None, :] < DIM),
            other=0.0,
        )
        if WIDEN:
            qs = qs.to(tl.float32)
        s = tl.dot(qs, tl.trans(ks), input_precision="ieee")
        if not PLAIN:
            s *= scale
        if CAPPED:  # cap * tanh(s / cap); its exponential may overflow, the result does not
            s = cap * (1.0 - 2.0 / (tl.exp2(s * (2.0 * LOG2E / cap)) + 1.0))
        inside = (rows[:, None] < count) & (columns[None, :] < keys)
        if KIND0 == 1 or KIND0 == 2:
            found0 = tl.load(
                mask0 + rows.to(tl.int64)[:, None] * m0_query + columns.to(tl.int64)[None, :] * m0_key,
                mask=inside,
                other=0,
            )
            if KIND0 == 1:
                s = tl.where(found0 != 0, s, float("-inf"))
            else:
                s += found0.to(tl.float32)
        if KIND1 != 0:
            found1 = tl.load(
                mask1 + rows.to(tl.int64)[:, None] * m1_query + columns.to(tl.int64)[None, :] * m1_key,
                mask=inside,
                other=0,
            )
            if KIND1 == 1:
                s = tl.where(found1 != 0, s, float("-inf"))
            else:
                s += found1.to(tl.float32)
        if CAUSAL:
            place = rows
            if PLACED:
                place = tl.load(positions + rows, mask=rows < count, other=0)
            s = tl.where(columns[None, :] <= place[:, None], s, float("-inf"))
        # Rows past the end have no maximum that bounds their logits.
        best = tl.load(top + rows, mask=rows < count, other=1e30)
        w = tl.load(weights + rows, mask=rows < count, other=0.0)[:, None]
        if KIND0 == 3:
            safe = tl.where(best == float("-inf"), 0.0, best)
            s = tl.fma(s, tl.full([BM, BN], steep, tl.float32), tl.broadcast_to(bias[None, :], [BM, BN]))
            centred = s - safe[:, None]
            p = tl.exp2(centred)
        elif PLAIN:  # columns past the end are not stored
            centred = tl.fma(s, steep, -(best * steep)[:, None])
            p = tl.exp2(centred)
        else:
            best = tl.where(best == float("-inf"), 0.0, best)
            centred = (s - best[:, None]) * LOG2E
            p = tl.where(inside, tl.exp2(centred), 0.0)
        if ENTROPY and (KIND0 != 0 or not PLAIN):
            centred = tl.where(p > 0, centred, 0.0)
        if ENTROPY:
            shares = p * w
            sums += shares
            spread = tl.fma(shares, centred, spread)
        else:
            sums = tl.fma(p, tl.broadcast_to(w, [BM, BN]), sums)
    cells = tl.num_programs(0) // blocks
    at = ((tl.program_id(1).to(tl.int64) * cells + cell) * groups + one) * keys + columns
    tl.store(mass + at, tl.sum(sums, 0), mask=columns < keys)
    if ENTROPY:
        tl.store(bits + at, tl.sum(spread, 0), mask=columns < keys)


@triton.jit
def _merge(
    q, k, v, bias, rest, lse, hit,
    heads, count, keys, scale,
    q_row, q_head, q_token, q_dim,
    k_row, k_head, k_token, k_dim,
    v_row, v_head, v_token, v_dim,
    DIM: tl.constexpr, PAD: tl.constexpr, VDIM: tl.constexpr, VPAD: tl.constexpr, KPAD: tl.constexpr,
    WIDEN: tl.constexpr, VWIDEN: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Add a few keys to a finished output, with any bias on their logits.

    `rest` [row, head, query, VDIM] is the output of the other keys and is overwritten; `lse` [row, head,
    query] the log-sum-exp of their logits; `bias` is [row, head, key]. Heads whose `hit` [row, head] is 0
    stay as they are. One program per block of BM queries of a head.
    """
    blocks = (count + BM - 1) // BM
    block, cell = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    row, head = (cell // heads).to(tl.int64), (cell % heads).to(tl.int64)
    rows = block * BM + tl.arange(0, BM)
    columns, dims, vdims = tl.arange(0, KPAD), tl.arange(0, PAD), tl.arange(0, VPAD)
    qs = tl.load(
        q + row * q_row + head * q_head + rows.to(tl.int64)[:, None] * q_token + dims[None, :] * q_dim,
        mask=(rows[:, None] < count) & (dims[None, :] < DIM),
        other=0.0,
    )
    ks = tl.load(
        k + row * k_row + head * k_head + columns.to(tl.int64)[:, None] * k_token + dims[None, :] * k_dim,
        mask=(columns[:, None] < keys) & (dims[None, :] < DIM),
        other=0.0,
    )
    vs = tl.load(
        v + row * v_row + head * v_head + columns.to(tl.int64)[:, None] * v_token + vdims[None, :] * v_dim,
        mask=(columns[:, None] < keys) & (vdims[None, :] < VDIM),
        other=0.0,
    )
    if WIDEN:
        qs, ks = qs.to(tl.float32), ks.to(tl.float32)
    if VWIDEN:
        vs = vs.to(tl.float32)
    shift = tl.load(bias + cell.to(tl.int64) * keys + columns, mask=columns < keys, other=float("-inf"))
    s = tl.dot(qs, tl.trans(ks), input_precision="ieee") * scale + shift[None, :]
    at = cell.to(tl.int64) * count + rows
    others = tl.load(lse + at, mask=rows < count, other=0.0)
    best = tl.maximum(others, tl.max(s, 1))
    p = tl.exp2((s - best[:, None]) * LOG2E)
    left = tl.exp2((others - best) * LOG2E)
    inside = (rows[:, None] < count) & (vdims[None, :] < VDIM)
    places = rest + at[:, None] * VDIM + vdims[None, :]
    acc = tl.load(places, mask=inside, other=0.0).to(tl.float32) * left[:, None]
    if SPLIT:
        half = v.dtype.element_ty
        high = p.to(half)
        low = (p - high.to(tl.float32)).to(half)
        acc += tl.dot(high.to(vs.dtype), vs, input_precision="ieee")
        acc += tl.dot(low.to(vs.dtype), vs, input_precision="ieee")
    else:
        acc += tl.dot(p, vs, input_precision="ieee")
    found = acc / (left + tl.sum(p, 1))[:, None]
    written = count * tl.load(hit + cell).to(tl.int32)
    inside = (rows[:, None] < written) & (vdims[None, :] < VDIM)
    tl.store(places, found.to(rest.dtype.element_ty), mask=inside)


INTERPRETED = not isinstance(_rowlse, triton.JITFunction)
"""Whether TRITON_INTERPRET=1 was set when triton was imported: kernels then run on the CPU, slowly."""
