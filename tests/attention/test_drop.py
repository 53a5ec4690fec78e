"""Removing keys by leaving them out gives what masking them gives, and reads no number on the way."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attention.calls import Call, calls, make
from torch import Tensor

from sinkscope.attention import (
    Mask,
    Questions,
    ResolvedEdit,
    ScaleLogit,
    _drop,
    apply_edits,
    deferred,
    incoming_mass,
    reference,
)
from sinkscope.errors import SinkscopeError

quick = settings(max_examples=30, deadline=None)


def dropped(call: Call, *edits: ResolvedEdit) -> Tensor:
    call.issued.clear()
    return apply_edits(call.q, call.k, call.v, edits, run=call.run, drop=True, **call.how)


def largest(call: Call, count: int) -> Tensor:
    top = call.mass().topk(count, dim=-1).indices
    return torch.zeros(call.shape, dtype=torch.bool).scatter(-1, top, True)


@quick
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 20)),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_what_stays_is_everything_else_in_order(
    shape: tuple[int, int, int], seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, shape[2] - 1))
    order = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).argsort(-1)
    chosen = torch.zeros(shape, dtype=torch.bool).scatter(-1, order[..., :count], True)
    kept = _drop.keep_index(chosen, count)
    want = (~chosen).nonzero()[:, -1].view(*shape[:2], -1)
    assert torch.equal(kept, want)
    chosen[0, 0] = False  # a head without an edit loses its last keys, and nothing breaks
    assert torch.equal(_drop.keep_index(chosen, count)[0, 0], torch.arange(shape[2] - count))


@quick
@given(call=calls(masks=("none",)), count=st.integers(1, 3), size=st.sampled_from((1, 4000, 2**24)))
def test_the_output_is_the_exact_one(call: Call, count: int, size: int) -> None:
    edit = ResolvedEdit(largest(call, count), Mask(), covers="all", count=count)
    with mock.patch.object(_drop, "COPY_BYTES", size):
        got = dropped(call, edit)
    assert all(args[3] is None and args[1].shape[2] == call.shape[2] - count for args in call.issued)
    assert size != 1 or len(call.issued) == call.shape[1]
    want = reference.edited_output(call.q, call.k, call.v, [edit], **call.how)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mask", ["keys", "float", "causal"])
def test_calls_with_a_mask_keep_their_mask(mask: str) -> None:
    call = make(2, mask=mask, queries=17)
    edit = ResolvedEdit(call.pick(2), Mask(), covers="all", count=2)
    assert torch.equal(dropped(call, edit), call.edited(edit))
    assert call.issued[0][1].shape[2] == 17


def test_several_edits_and_other_actions_are_biased() -> None:
    call = make(3)
    first, second = (ResolvedEdit(call.pick(2, seed), Mask(), covers="all", count=2) for seed in (0, 1))
    other = ResolvedEdit(call.pick(2), ScaleLogit(shift=-1.0), covers="all", count=2)
    for edits in ((first, second), (other,), (replace(first, count=None),)):
        assert torch.equal(dropped(call, *edits), call.edited(*edits))
        assert all(args[1].shape[2] == 17 for args in call.issued)


def test_rows_heads_and_queries_that_are_not_meant_keep_their_bits() -> None:
    call = make(4, dtype=torch.float32)
    chosen = largest(call, 2)
    chosen[0] = False
    chosen[:, 1] = False
    edit = ResolvedEdit(chosen, Mask(), torch.arange(12) < 7, covers="some", count=2)
    got, plain = dropped(call, edit), call.plain()
    reach = chosen.any(-1)
    assert torch.equal(got[~reach], plain[~reach]) and torch.equal(got[:, :, 7:], plain[:, :, 7:])
    want = reference.edited_output(call.q, call.k, call.v, [edit], **call.how)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_errs_as_the_kernel_does(dtype: torch.dtype) -> None:
    call = make(5, queries=64, keys=96, dim=64, spread=1.0)
    call = replace(call, q=call.q.to(dtype), k=call.k.to(dtype), v=call.v.to(dtype))
    edit = ResolvedEdit(largest(call, 5), Mask(), covers="all", count=5)
    want = reference.edited_output(call.q, call.k, call.v, [edit])
    own = (call.plain().double() - reference.output(call.q, call.k, call.v)).abs().max()
    assert float((dropped(call, edit).double() - want).abs().max()) <= 2 * float(own)


def test_a_wrong_count_is_an_error() -> None:
    call = make(6)
    edit = ResolvedEdit(call.pick(2), Mask(), covers="all", count=3)
    with pytest.raises(SinkscopeError, match="removes 3 keys of every head got 8 heads with another number"):
        dropped(call, edit)
    questions = Questions()
    with deferred(questions):
        dropped(call, edit)
    with pytest.raises(SinkscopeError, match="8 heads"):
        questions.settle()


@pytest.mark.gpu
def test_a_step_is_captured_as_a_cuda_graph_and_never_waits() -> None:
    """Measuring, choosing and dropping on a real GPU: no host sync, and the same bits when replayed."""
    if not torch.cuda.is_available():
        pytest.skip("NOT TESTED: a CUDA graph of an edited call, because there is no GPU")
    call = make(7, rows=2, heads=8, kv_heads=8, queries=300, keys=300, dim=64, dtype=torch.float16)
    q, k, v = (t.cuda() for t in (call.q, call.k, call.v))
    questions = Questions()

    def step() -> Tensor:
        with deferred(questions):
            top = incoming_mass(q, k).topk(2, dim=-1).indices
            chosen = torch.zeros(2, 8, 300, dtype=torch.bool, device="cuda").scatter(-1, top, True)
            edit = ResolvedEdit(chosen, Mask(), covers="all", count=2)
            return apply_edits(q, k, v, [edit], run=call.run, drop=True)

    want = step()
    questions.settle()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    questions.settle()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(got, want)
