"""Attention whose logits are capped: every path against the formula written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attention.calls import Call, calls, make
from tests.attention.test_laws import output_actions, reordered, scopes, sets, weight_actions
from tests.attention.test_measure import assert_same, both
from torch import Tensor

from sinkscope.attention import ResolvedEdit, measure, reference
from sinkscope.attention._operands import Operands
from sinkscope.errors import UsageError

quick = settings(max_examples=25, deadline=None)
caps = st.sampled_from((0.5, 2.0, 50.0))


class Capped(Call):
    """A call of a model that caps its logits, and the kernel of such a model."""

    def run(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float | None
    ) -> Tensor:
        self.issued.append((q, k, v, mask, is_causal, scale))
        masks = () if mask is None else (mask,)
        ops = Operands(q, k, masks=masks, scale=scale, is_causal=is_causal, softcap=self.softcap)
        values = v.double().repeat_interleave(q.shape[1] // v.shape[1], 1)
        return (reference.softmax(reference.logits(ops)) @ values).to(q.dtype)


def capped(call: Call, softcap: float) -> Capped:
    return Capped(call.q, call.k, call.v, call.mask, call.scale, call.is_causal, softcap)


@quick
@given(call=calls(), softcap=caps)
def test_every_statistic_equals_the_reference(call: Call, softcap: float) -> None:
    groups = {"all": None, "first": slice(0, 1)}
    assert_same(*both(capped(call, softcap), groups), tol=1e-6)


@quick
@given(call=calls(), softcap=caps)
def test_the_cap_is_a_mask_of_its_own(call: Call, softcap: float) -> None:
    """Independent of every path that knows caps: the capped logits as an additive mask, without queries."""
    found = measure(call.q, call.k, softcap=softcap, **call.how).mass["all"]
    scale = call.q.shape[-1] ** -0.5 if call.scale is None else call.scale
    keys = call.k.repeat_interleave(call.q.shape[1] // call.k.shape[1], 1)
    logits = softcap * torch.tanh(call.q @ keys.transpose(-1, -2) * scale / softcap)
    if call.mask is not None:
        hidden = call.mask.dtype == torch.bool
        logits = logits.masked_fill(~call.mask, -torch.inf) if hidden else logits + call.mask
    want = measure(torch.zeros_like(call.q), call.k, mask=logits, is_causal=call.is_causal).mass["all"]
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


@quick
@given(data=st.data(), softcap=caps)
def test_any_composition_equals_the_written_out_formula(data: st.DataObject, softcap: float) -> None:
    call = capped(data.draw(calls(masks=("none", "bool", "float", "causal"))), softcap)
    edits = []
    for _ in range(data.draw(st.integers(1, 3))):
        count, seed = data.draw(sets)
        action = data.draw(st.one_of(weight_actions, output_actions))
        picked = call.pick_queries(count, seed) if action.side == "queries" else call.pick(count, seed)
        edits.append(ResolvedEdit(picked, action, data.draw(scopes(call))))
    want = reference.edited_output(call.q, call.k, call.v, reordered(edits), **call.how)
    # Without masks of their own, probabilities are rescaled in float32.
    torch.testing.assert_close(call.edited(*edits).double(), want, rtol=1e-5, atol=1e-4)
    weights = reference.edited_weights(call.q, call.k, reordered(edits), **call.how)
    torch.testing.assert_close(
        call.after(*edits).double(), reference.mean_mass(weights), rtol=1e-5, atol=1e-5
    )


def test_a_cap_far_above_the_logits_is_none() -> None:
    call = make()
    capped_mass = measure(call.q, call.k, softcap=1e6).mass["all"]
    torch.testing.assert_close(capped_mass, call.mass(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("softcap", [0.0, -1.0])
def test_a_cap_is_a_positive_number(softcap: float) -> None:
    call = make()
    with pytest.raises(UsageError, match=r"Got softcap=.*expected a number above 0, or None"):
        measure(call.q, call.k, softcap=softcap)
