from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attention.calls import MASKS, Call, calls, make

from sinkscope.attention import (
    STATISTICS,
    allowed_keys,
    backends,
    incoming_mass,
    measure,
    reference,
    segment_mass,
    top_mass_share,
)
from sinkscope.attention._operands import Operands
from sinkscope.attention._rowblock import plan_blocks, rowblock
from sinkscope.errors import NonFiniteError, UsageError

quick = settings(max_examples=25, deadline=None)
DTYPES = {torch.float64: 1e-6, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}


def both(call: Call, groups: dict) -> tuple:
    args = {"queries": groups, "want": STATISTICS, **call.how}
    return (
        measure(call.q, call.k, call.v, **args),
        measure(call.q, call.k, call.v, backend="reference", **args),
    )


def assert_same(got, want, tol: float) -> None:
    for name in ("mass", "entropy", "max_weight"):
        for group, value in getattr(got, name).items():
            torch.testing.assert_close(
                value.double(), getattr(want, name)[group].double(), rtol=tol, atol=tol
            )
    for name in ("lse", "concentration", "output", "max_activation"):
        torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=tol, atol=tol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@quick
@given(data=st.data())
def test_every_statistic_equals_the_reference(dtype: torch.dtype, data: st.DataObject) -> None:
    call = data.draw(calls(dtype=dtype))
    count = call.q.shape[2]
    rows = torch.arange(call.q.shape[0] * count).view(-1, count) % 3 != 1
    rows[:, 0] = True
    groups = {"all": None, "first": slice(0, 1 + count // 2), "last": torch.tensor([count - 1]), "rows": rows}
    got, want = both(call, groups)
    assert_same(got, want, DTYPES[dtype])
    assert got.mass["all"].dtype == torch.float32


@quick
@given(call=calls())
def test_incoming_mass_is_the_mean_softmax_weight_and_sums_to_one(call: Call) -> None:
    mass = call.mass()
    want = reference.incoming_mass(call.q, call.k, call.mask, call.scale, is_causal=call.is_causal)
    torch.testing.assert_close(mass.double(), want, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mass.sum(-1), torch.ones(mass.shape[:2]), rtol=0, atol=1e-5)
    assert bool((mass >= 0).all())


@quick
@given(call=calls(dtype=torch.float32), limit=st.integers(16, 6000))
def test_block_size_does_not_matter(call: Call, limit: int) -> None:
    masks = () if call.mask is None else (call.mask,)
    ops = Operands(call.q, call.k, call.v, masks=masks, scale=call.scale, is_causal=call.is_causal)
    weights = torch.ones(1, 1, 1, call.q.shape[2])
    small, large = (rowblock(ops, weights, STATISTICS, limit_bytes=size) for size in (limit, 2**22))
    for name in ("mass", "lse", "entropy", "peak", "output", "activation"):
        torch.testing.assert_close(getattr(small, name), getattr(large, name), rtol=1e-5, atol=1e-5)


@quick
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    limit=st.integers(1, 300),
    cut=st.tuples(st.integers(0, 8), st.integers(1, 9)),
)
def test_blocks_cover_every_logit_once(
    shape: tuple[int, int, int, int], limit: int, cut: tuple[int, int]
) -> None:
    span = range(min(cut[0], shape[2] - 1), min(max(cut[0] + 1, cut[1]), shape[2]))
    seen = torch.zeros(shape[:3])
    for block in plan_blocks(shape, span, limit):
        seen[block] += 1
        size = seen[block].numel() * shape[3]
        assert size <= max(limit, 2 * shape[3])
    assert bool((seen[:, :, span.start : span.stop] == 1).all())
    assert float(seen.sum()) == shape[0] * shape[1] * len(span)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("queries", [24, 520])
def test_numbers_of_a_row_do_not_depend_on_its_batch(kind: str, queries: int) -> None:
    call = make(3, rows=3, queries=queries, keys=queries, dtype=torch.float32, mask=kind)
    args = {"want": STATISTICS, "is_causal": call.is_causal}
    whole = measure(call.q, call.k, call.v, mask=call.mask, **args)
    for order in ([2], [1], [2, 0], [1, 2, 0]):
        mask = None if call.mask is None else call.mask[order]
        part = measure(call.q[order], call.k[order], call.v[order], mask=mask, **args)
        assert torch.equal(part.mass["all"], whole.mass["all"][order])
        assert torch.equal(part.lse, whole.lse[order])
        assert torch.equal(part.output, whole.output[order])


@pytest.mark.parametrize("additive", [False, True])
def test_fully_masked_queries_are_safe_and_left_out_of_the_mean(additive: bool) -> None:
    call = make(1, mask="bool", dtype=torch.float32)
    call.mask[0, :, :5] = False
    without = incoming_mass(call.q[:1, :, 5:], call.k[:1], call.mask[:1, :, 5:])
    mask = torch.where(call.mask, 0.0, -torch.inf) if additive else call.mask
    got = measure(call.q, call.k, call.v, mask=mask, want=STATISTICS)
    torch.testing.assert_close(got.mass["all"][:1], without)
    assert bool((got.lse[0, :, :5] == -torch.inf).all())
    assert bool((got.output[0, :, :5] == 0).all())
    assert bool(torch.isfinite(got.entropy["all"]).all())


def test_a_group_without_any_visible_key_is_nan_and_never_zero() -> None:
    call = make(1, mask="bool", dtype=torch.float32)
    call.mask[0, :, :5] = False
    got = measure(
        call.q, call.k, mask=call.mask, queries={"g": slice(0, 5)}, want=("mass", "entropy", "max_weight")
    )
    for value in (got.mass["g"], got.entropy["g"], got.max_weight["g"]):
        assert bool(torch.isnan(value[0]).all()) and bool(torch.isfinite(value[1]).all())


@quick
@given(call=calls(), seed=st.integers(0, 99))
def test_row_weight_gives_the_weighted_mean(call: Call, seed: int) -> None:
    w = torch.rand(call.q.shape[:3], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p = reference.weights(call.q, call.k, **call.how)
    want = (p * w[..., None]).sum(2) / w.sum(2)[..., None]
    got = measure(call.q, call.k, row_weight=w, **call.how).mass["all"]
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-7)


def test_in_place_softmax_has_the_bits_of_the_ordinary_one() -> None:
    for shape in ((1, 1, 1), (2, 3, 5), (4, 96, 96), (2, 128, 1000), (2, 7, 4429)):
        x = torch.randn(shape)
        assert torch.equal(torch.softmax(x, -1), torch.softmax(x, -1, out=x))


def test_measuring_leaves_inputs_alone_and_works_under_autocast_and_grad() -> None:
    call = make(5, dtype=torch.float32)
    want = call.mass()
    copies = [t.clone() for t in (call.q, call.k)]
    call.q.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(call.mass(), want)
    with torch.inference_mode():
        assert torch.equal(call.mass(), want)
    assert torch.equal(call.q, copies[0]) and torch.equal(call.k, copies[1])


@quick
@given(call=calls())
def test_derived_shares(call: Call) -> None:
    mass = call.mass()
    keys = mass.shape[-1]
    parts = {"left": torch.arange(keys) < 2, "right": torch.arange(keys).expand(mass.shape[0], keys) >= 2}
    shares = segment_mass(mass, parts)
    torch.testing.assert_close(shares["left"] + shares["right"], mass.sum(-1))
    assert bool((top_mass_share(mass, 4) <= top_mass_share(mass, keys) + 1e-6).all())
    torch.testing.assert_close(top_mass_share(mass, 1), mass.amax(-1))


def test_allowed_keys_reads_every_kind_of_mask() -> None:
    shape = (2, 4, 3, 5)
    assert allowed_keys(None, shape) is None
    keep = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    keep[1, ..., 3:] = False
    want = keep[:, 0, 0]
    for low in (-torch.inf, -10000.0, torch.finfo(torch.float32).min):
        assert torch.equal(allowed_keys(torch.where(keep, 0.0, low), shape), want)
    assert torch.equal(allowed_keys(keep, shape), want)
    assert torch.equal(allowed_keys(keep[1, 0, 0], shape), want[1:].expand(2, 5))
    assert not bool(allowed_keys(torch.full((5,), -torch.inf), shape).any())


@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_not_finite_input_is_named(name: str, bad: float) -> None:
    call = make(2, dtype=torch.float32)
    getattr(call, name)[0, 0, 0, 0] = bad
    with pytest.raises(NonFiniteError, match=f"1 of .* entries of {name}; expected finite"):
        measure(call.q, call.k, call.v)


def test_huge_but_finite_numbers_are_not_refused() -> None:
    q = torch.full((1, 1, 4, 4), 1e38)
    assert torch.allclose(incoming_mass(q, torch.full_like(q, 1e-39)), torch.full((1, 1, 4), 0.25))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"q": torch.zeros(2, 3, 4)}, r"Got q \(2, 3, 4\).*Add the missing axes"),
        ({"k": torch.zeros(2, 3, 17, 8)}, "kv_head count that divides"),
        ({"v": torch.zeros(2, 4, 3, 8)}, r"Got v \(2, 4, 3, 8\)"),
        ({"mask": torch.zeros(3, 17)}, r"Got a mask of shape \(3, 17\).*\[2, 4, 12, 17\]"),
        ({"mask": torch.zeros(17, dtype=torch.long)}, "dtype torch.int64.*mask.bool"),
        ({"want": ("mas",)}, "Unknown attention statistic 'mas'.*Did you mean 'mass'"),
        ({"want": ("output",), "v": None}, "without values. Pass v"),
        ({"queries": {}}, "empty mapping of query groups"),
        ({"queries": {"text": slice(30, 40)}}, "'text' selects none of the 12 queries"),
        ({"queries": {"text": torch.tensor([12])}}, r"names queries 12..12, but there are 12 \(0..11\)"),
        (
            {"queries": {"text": torch.ones(3, dtype=torch.bool)}},
            r"shape \(3,\); expected \[12\] or \[2, 12\]",
        ),
        ({"queries": {"text": torch.ones(3)}}, "dtype torch.float32"),
        ({"queries": {"text": [1, 2]}}, "is a list; expected None, a slice"),
        (
            {"row_weight": torch.ones(5)},
            r"row_weight of shape \(5,\); expected \[12\], \[2, 12\] or \[2, 4, 12\]",
        ),
        ({"backend": "rowblok"}, "Unknown attention backend 'rowblok'.*Did you mean 'rowblock'"),
    ],
)
def test_bad_input_is_one_clear_error(change: dict, text: str) -> None:
    call = make(0, dtype=torch.float32)
    args = {"q": call.q, "k": call.k, "v": call.v} | change
    with pytest.raises(UsageError, match=text):
        measure(**args)


def test_derived_errors_and_backend_names() -> None:
    mass = torch.full((1, 1, 4), 0.25)
    with pytest.raises(UsageError, match="n=5 for mass over 4 keys"):
        top_mass_share(mass)
    with pytest.raises(UsageError, match=r"Segment 'text' is torch.bool of shape \(3,\)"):
        segment_mass(mass, {"text": torch.ones(3, dtype=torch.bool)})
    assert {"rowblock", "reference"} <= set(backends())
