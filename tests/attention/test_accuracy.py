"""The bars of the fast path on the CPU for every class of call: float64 beside it, and never the slow way."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attention.calls import MASKS, Call, make
from torch import Tensor

from sinkscope.attention import STATISTICS, Mask, ResolvedEdit, _backends, _rowblock, incoming_mass, measure
from sinkscope.attention import reference as ref
from sinkscope.attention._operands import Operands

MASS_ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-4, torch.float16: 1e-4}
DIMS = (40, 64, 72, 128, 160)


@st.composite
def wide_calls(draw: st.DrawFn, dtype: torch.dtype) -> Call:
    """Head sizes of real models, grouped keys, every mask, also queries without any key."""
    kv = draw(st.sampled_from((1, 2)))
    mask = draw(st.sampled_from(MASKS))
    call = make(
        draw(st.integers(0, 10**6)),
        rows=draw(st.integers(1, 2)),
        heads=kv * draw(st.sampled_from((1, 3))),
        kv_heads=kv,
        queries=draw(st.integers(20, 70)),
        keys=draw(st.integers(20, 70)),
        dim=draw(st.sampled_from(DIMS)),
        mask=mask,
        dtype=dtype,
        spread=draw(st.sampled_from((0.5, 1.2))),
    )
    if mask in ("bool", "float") and draw(st.booleans()):
        low = False if mask == "bool" else -torch.inf
        call.mask[:, :, :3] = low
    return call


@pytest.mark.parametrize("dtype", MASS_ERROR, ids=str)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_mass_of_every_kind_of_call_is_within_its_bar(dtype: torch.dtype, data: st.DataObject) -> None:
    call = data.draw(wide_calls(dtype))
    slow = replace(
        _backends._BACKENDS["reference"], run=mock.Mock(side_effect=AssertionError("the slow way"))
    )
    # Blocks of a few queries, so that the pass is cut as it is for thousands of tokens.
    with (
        mock.patch.object(_rowblock, "CPU_BLOCK_BYTES", data.draw(st.sampled_from((3000, 40000)))),
        mock.patch.dict(_backends._BACKENDS, {"reference": slow}),
    ):
        found = call.mass().double()
    want = ref.incoming_mass(call.q, call.k, call.mask, call.scale, is_causal=call.is_causal)
    assert float(((found - want).abs() / want.clamp_min(1e-12)).max()) <= MASS_ERROR[dtype]


@pytest.mark.parametrize("dtype", MASS_ERROR, ids=str)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_cut_and_padded_passes_measure_everything_alike(dtype: torch.dtype, data: st.DataObject) -> None:
    call = data.draw(wide_calls(dtype))
    groups = {"all": None, "some": slice(5, 11), "last": torch.tensor([call.q.shape[2] - 1])}
    how = {"queries": groups, "want": STATISTICS, **call.how}
    with mock.patch.object(_rowblock, "CPU_BLOCK_BYTES", 3000):
        got = measure(call.q, call.k, call.v, **how)
    want = measure(call.q, call.k, call.v, backend="reference", **how)
    for name in ("lse", "concentration", "output", "max_activation"):
        torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=2e-5, atol=2e-5)
    for name in ("mass", "entropy", "max_weight"):
        for group, value in getattr(got, name).items():
            goal = getattr(want, name)[group].double()
            torch.testing.assert_close(value.double(), goal, rtol=2e-5, atol=2e-5, equal_nan=True)


def planted(removed: float, dtype: torch.dtype, dim: int = 64, mask: str = "none") -> tuple[Call, Tensor]:
    """A call whose first five keys hold about `removed` of every query's weight, and the keys as a set."""
    call = make(3, rows=1, heads=2, queries=128, keys=256, dim=dim, spread=0.5, mask=mask)
    call.q[..., 0] = 4.0
    call.k[..., 0] = 0.0
    logit = float(torch.logit(torch.tensor(removed, dtype=torch.float64))) + float(
        torch.tensor(251 / 5).log()
    )
    call.k[:, :, :5, 0] = logit * dim**0.5 / 4.0
    call = replace(call, q=call.q.to(dtype), k=call.k.to(dtype), v=call.v.to(dtype))
    if call.mask is not None:
        call.mask[..., 5] = True if mask == "bool" else 0.0  # someone stays for every query
        call.mask = call.mask if mask == "bool" else call.mask.to(dtype)
    return call, (torch.arange(256) < 5).expand(1, 2, 256)


def worst(out: Tensor, want: Tensor) -> float:
    """Largest error of a row relative to the length of the row."""
    return float(((out.double() - want).norm(dim=-1) / want.norm(dim=-1)).max())


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("removed", [0.5, 0.99, 1 - 1e-4, 1 - 1e-8])
def test_removal_is_exact_however_much_is_removed(removed: float, mask: str) -> None:
    for dim in (64, 160):
        call, chosen = planted(removed, torch.float32, dim, mask)
        if mask == "none":
            held = ref.incoming_mass(call.q, call.k)[..., :5].sum(-1)
            assert float((held - removed).abs().max()) < 0.1 * (1 - removed) + 1e-3
        edit = ResolvedEdit(chosen, Mask())
        want = ref.edited_output(call.q, call.k, call.v, [edit], **call.how)
        assert worst(call.edited(edit), want) <= 5e-6
        assert len(call.issued) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("removed", [0.5, 0.99, 1 - 1e-8])
def test_removal_in_half_precision_errs_as_the_kernel_does(removed: float, dtype: torch.dtype) -> None:
    call, chosen = planted(removed, dtype)
    kept = replace(call, k=call.k[:, :, 5:], v=call.v[:, :, 5:])
    edit = ResolvedEdit(chosen, Mask())
    want = ref.edited_output(call.q, call.k, call.v, [edit])
    own = worst(kept.plain(), ref.output(kept.q, kept.k, kept.v))
    assert 0 < worst(call.edited(edit), want) <= 2 * own


@pytest.mark.parametrize("tokens", [300, 4429])
def test_views_of_a_model_are_never_copied_whole(tokens: int) -> None:
    """[row, token, head, dim] storage, transposed: what is laid out anew is two heads at a time."""
    q = torch.zeros(1, tokens, 24, 8).transpose(1, 2)
    seen: list[int] = []
    plan = _rowblock._Pass._hold

    def watch(self: _rowblock._Pass, block: _rowblock.Block) -> None:
        plan(self, block)
        seen.append(self.k.numel())

    with mock.patch.object(_rowblock._Pass, "_hold", watch), mock.patch.object(_rowblock._Pass, "_sums"):
        # Queries far fewer than keys keep this test quick; the cut goes by both.
        _rowblock.rowblock(Operands(q[:, :, :16], q), torch.ones(1, 1, 1, 16), {"mass"})
    assert max(seen) <= max(2 * 8 * (tokens + 15), 2**20) and (tokens == 300 or len(seen) > 1)


def test_the_backend_of_a_cpu_call_is_the_row_block_pass() -> None:
    for dtype in (*MASS_ERROR, torch.float64):
        for dim in DIMS:
            q = torch.zeros(1, 1, 2, dim, dtype=dtype)
            assert _backends.pick_backend(None, Operands(q, q)) is _rowblock.rowblock
    assert incoming_mass(q, q).dtype == torch.float32


@pytest.mark.parametrize("low", [-torch.inf, -1e38, -100.0])
def test_a_row_without_any_key_does_not_change_its_neighbours(low: float) -> None:
    """Whether a mask over keys leaves every row a key decides how the pass goes, not what it finds."""
    call = make(8, rows=3, queries=40, keys=48, mask="keys", dtype=torch.float32)
    call.mask = torch.where(call.mask, 0.0, low)
    other = call.mask.clone()
    other[1] = -torch.inf
    for size in (3000, 2**22):
        with mock.patch.object(_rowblock, "CPU_BLOCK_BYTES", size):
            kept, lost = (
                measure(call.q, call.k, call.v, mask=mask, want=STATISTICS) for mask in (call.mask, other)
            )
        for name in ("lse", "concentration", "output", "max_activation"):
            assert torch.equal(getattr(kept, name)[[0, 2]], getattr(lost, name)[[0, 2]])
        for name in ("mass", "entropy", "max_weight"):
            found, goal = getattr(lost, name)["all"], getattr(kept, name)["all"]
            assert torch.equal(found[[0, 2]], goal[[0, 2]]) and bool(found[1].isnan().all())
        assert bool((lost.lse[1] == -torch.inf).all()) and bool((lost.output[1] == 0).all())
