"""The laws of issue 2, section 3, for every action, against the written-out float64 reference."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attention.calls import Call, calls
from torch import Tensor

from sinkscope.attention import (
    STAGES,
    Action,
    KeyedRandom,
    Mask,
    ReplaceOutput,
    ReplaceValue,
    ResolvedEdit,
    ScaleLogit,
    ScaleProbability,
    reference,
)

quick = settings(max_examples=25, deadline=None)
DTYPES = {torch.float64: 1e-9, torch.float32: 3e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
VALUE_MASKS = ("none", "causal", "keys")

weight_actions = st.one_of(
    st.just(Mask()),
    st.builds(
        ScaleLogit, factor=st.sampled_from((0.0, 0.5, 1.0, 2.0)), shift=st.sampled_from((-2.3, 0.0, 1.0))
    ),
    st.builds(ScaleProbability, eta=st.sampled_from((0.0, 0.01, 0.25, 0.9))),
)
value_actions = st.builds(
    ReplaceValue, with_=st.sampled_from(("zero", "mean")), amount=st.sampled_from((0.5, 1.0, 1.5))
)
output_actions = st.builds(
    ReplaceOutput,
    with_=st.sampled_from(("zero", "mean_value", "mean_output")),
    amount=st.sampled_from((0.5, 1.0, 1.5)),
)
sets = st.tuples(st.integers(1, 3), st.integers(0, 10**6))


def reordered(edits: list[ResolvedEdit]) -> list[ResolvedEdit]:
    return sorted(edits, key=lambda edit: STAGES.index(edit.action.stage))


def edited_weights(call: Call, *edits: ResolvedEdit) -> Tensor:
    return reference.edited_weights(call.q, call.k, reordered(list(edits)), **call.how)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@quick
@given(data=st.data())
def test_an_identity_changes_no_bit(dtype: torch.dtype, data: st.DataObject) -> None:
    call = data.draw(calls(dtype=dtype))
    chosen = call.pick(2)
    nothing = torch.zeros_like(chosen)
    identities = (ScaleLogit(), ScaleProbability(1.0), ReplaceValue("mean", 0.0), ReplaceValue("noise", 0.0))
    edits = [ResolvedEdit(chosen, action) for action in identities]
    some_queries = call.pick_queries(2)
    edits += [
        ResolvedEdit(some_queries, ReplaceOutput("mean_value", 0.0)),
        ResolvedEdit(torch.zeros_like(some_queries), ReplaceOutput("mean_output")),
    ]
    edits += [
        ResolvedEdit(nothing, action) for action in (Mask(), ScaleProbability(0.2), ReplaceValue("zero"))
    ]
    plain = call.plain()
    for some in ([], edits, *([edit] for edit in edits)):
        assert torch.equal(call.edited(*some), plain)
        ((q, k, v, mask, is_causal, scale),) = call.issued
        assert q is call.q and k is call.k and v is call.v and mask is call.mask
        assert (is_causal, scale) == (call.is_causal, call.scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@quick
@given(data=st.data())
def test_any_composition_equals_the_written_out_formula(dtype: torch.dtype, data: st.DataObject) -> None:
    """Several edits at once, each with its own keys and queries, given in any order."""
    call = data.draw(calls(dtype=dtype, masks=("none", "bool", "float", "causal")))
    masks_differ = call.mask is not None
    kinds = weight_actions if masks_differ else st.one_of(weight_actions, value_actions)
    kinds = st.one_of(kinds, output_actions)
    edits = []
    for _ in range(data.draw(st.integers(1, 3))):
        count, seed = data.draw(sets)
        action = data.draw(kinds)
        picked = call.pick_queries(count, seed) if action.side == "queries" else call.pick(count, seed)
        edits.append(ResolvedEdit(picked, action, data.draw(scopes(call))))
    want = reference.edited_output(call.q, call.k, call.v, reordered(edits), **call.how)
    got = call.edited(*edits)
    assert got.dtype == dtype and got.shape == want.shape
    tol = DTYPES[dtype]
    torch.testing.assert_close(got.double(), want, rtol=tol, atol=tol * 10)
    mass = reference.mean_mass(edited_weights(call, *edits))
    torch.testing.assert_close(call.after(*edits).double(), mass, rtol=max(tol, 1e-5), atol=1e-5 + tol / 10)


def scopes(call: Call) -> st.SearchStrategy[Tensor | None]:
    rows, _, count, _ = call.q.shape
    return st.one_of(
        st.none(),
        st.integers(1, count).map(lambda n: torch.arange(count) < n),
        st.integers(2, 3).map(lambda n: torch.arange(rows * count).view(rows, count) % n == 0),
    )


@quick
@given(call=calls(), pick=sets)
def test_masked_mass_vanishes_rows_sum_to_one_and_other_keys_keep_their_ratios(
    call: Call, pick: tuple
) -> None:
    chosen = call.pick(*pick)
    after = call.after(ResolvedEdit(chosen, Mask()))
    assert float(after[chosen].max()) < 1e-8
    torch.testing.assert_close(after.sum(-1), torch.ones(after.shape[:2]), rtol=0, atol=1e-5)
    p, new = reference.weights(call.q, call.k, **call.how), edited_weights(call, ResolvedEdit(chosen, Mask()))
    rest = (p * ~chosen[:, :, None]).sum(-1, keepdim=True)
    torch.testing.assert_close(new, torch.where(chosen[:, :, None], 0.0, p / rest), rtol=1e-9, atol=1e-12)
    # The same through the public path: with one-hot values the output is the weights.
    eye = torch.eye(p.shape[-1], dtype=torch.float64).expand(*p.shape[:2], -1, -1)
    shown = Call(call.q, call.k.repeat_interleave(call.q.shape[1] // call.k.shape[1], 1), eye, **call.how)
    torch.testing.assert_close(shown.edited(ResolvedEdit(chosen, Mask())), new, rtol=1e-9, atol=1e-12)


@quick
@given(call=calls(), pick=sets, eta=st.floats(0.0, 1.0))
def test_scaled_probability_keeps_sums_and_ratios(call: Call, pick: tuple, eta: float) -> None:
    chosen = call.pick(*pick)
    p = reference.weights(call.q, call.k, **call.how)
    eye = torch.eye(p.shape[-1], dtype=torch.float64).expand(*p.shape[:2], -1, -1)
    shown = Call(call.q, call.k.repeat_interleave(call.q.shape[1] // call.k.shape[1], 1), eye, **call.how)
    new = shown.edited(ResolvedEdit(chosen, ScaleProbability(eta)))
    on = chosen[:, :, None].expand_as(p)
    s = (p * on).sum(-1, keepdim=True)
    torch.testing.assert_close(new.sum(-1), torch.ones_like(new[..., 0]), rtol=0, atol=1e-9)
    # The formula's 1 - s, without its cancellation where the chosen keys hold nearly everything.
    rest = (p * ~on).sum(-1, keepdim=True)
    assert bool((rest > 1e-300).all())
    torch.testing.assert_close(new, torch.where(on, eta * p, p * (1 - eta * s) / rest), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@quick
@given(data=st.data())
def test_scale_probability_zero_is_mask(dtype: torch.dtype, data: st.DataObject) -> None:
    call, pick = data.draw(calls(dtype=dtype)), data.draw(sets)
    chosen = call.pick(*pick)
    zero = call.edited(ResolvedEdit(chosen, ScaleProbability(0.0)))
    assert torch.equal(zero, call.edited(ResolvedEdit(chosen, Mask())))


@quick
@given(call=calls(masks=VALUE_MASKS), pick=sets, action=value_actions)
def test_a_value_edit_moves_the_output_by_weight_times_value_difference(
    call: Call, pick: tuple, action: ReplaceValue
) -> None:
    chosen = call.pick(*pick)
    group = call.q.shape[1] // call.v.shape[1]
    v = call.v.repeat_interleave(group, 1)
    seen = torch.ones(1, v.shape[2]) if call.mask is None else call.mask[:, 0, 0].double()
    mean = (v * seen[:, None, :, None]).sum(2, keepdim=True) / seen.sum(-1)[:, None, None, None]
    target = mean if action.with_ == "mean" else torch.zeros_like(v)
    moved = torch.where(chosen[..., None], action.amount * (target - v), 0.0)
    p = reference.weights(call.q, call.k, **call.how)
    got = call.edited(ResolvedEdit(chosen, action)) - call.plain()
    torch.testing.assert_close(got, p @ moved, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(call.after(ResolvedEdit(chosen, action)), call.mass())


@quick
@given(call=calls(masks=VALUE_MASKS), data=st.data())
def test_the_order_edits_are_given_in_does_not_matter_across_stages(call: Call, data: st.DataObject) -> None:
    actions: list[Action] = [Mask(), ScaleLogit(0.5, 0.3), ScaleProbability(0.4), ReplaceValue("zero")]
    edits = [ResolvedEdit(call.pick(*data.draw(sets)), action) for action in actions]
    want = call.edited(*edits)
    for order in data.draw(st.lists(st.sampled_from(list(itertools.permutations(edits))), max_size=3)):
        assert torch.equal(call.edited(*order), want)


@quick
@given(call=calls(dtype=torch.float32), pick=sets, eta=st.sampled_from((0.01, 0.1, 0.5)))
def test_a_shift_of_log_eta_multiplies_the_unnormalised_weight(call: Call, pick: tuple, eta: float) -> None:
    chosen = call.pick(*pick)
    p = reference.weights(call.q, call.k, **call.how)
    scaled = torch.where(chosen[:, :, None], eta * p, p)
    want = reference.mean_mass(scaled / scaled.sum(-1, keepdim=True))
    got = call.after(ResolvedEdit(chosen, ScaleLogit(shift=math.log(eta))))
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)


def test_removal_stays_exact_when_the_chosen_keys_hold_nearly_all_mass() -> None:
    for boost in (5.0, 20.0, 60.0):
        torch.manual_seed(0)
        call = Call(*(torch.randn(1, 2, 30, 8) for _ in range(3)))
        call.q[..., 0] = 3.0
        call.k[:, :, 4, 0] += boost
        chosen = torch.arange(30).eq(4).expand(1, 2, 30)
        for action in (Mask(), ScaleProbability(0.3), ReplaceValue("zero")):
            edit = ResolvedEdit(chosen, action)
            want = reference.edited_output(call.q, call.k, call.v, [edit])
            torch.testing.assert_close(call.edited(edit).double(), want, rtol=1e-4, atol=2e-5)


def test_noise_has_the_spread_of_the_values_and_is_keyed() -> None:
    v = torch.randn(2, 3, 400, 16) * torch.tensor([0.1, 1.0, 9.0])[None, :, None, None]
    call = Call(torch.randn(2, 3, 5, 16), torch.randn(2, 3, 400, 16), v)
    everything = torch.ones(call.shape, dtype=torch.bool)
    action = ReplaceValue("noise", seed=3)

    def noisy(units: list[int], rows: list[int], seed: int = 3) -> Tensor:
        part = Call(call.q[rows], call.k[rows], call.v[rows])
        random = KeyedRandom.of(units, ["cond"] * len(rows), "a", 2)
        part.edited(ResolvedEdit(everything[rows], ReplaceValue("noise", seed=seed), random=random))
        return part.issued[0][2]

    both = noisy([7, 8], [0, 1])
    torch.testing.assert_close(both.std((-1, -2)), v.std((-1, -2)), rtol=0.05, atol=0)
    assert torch.equal(noisy([8], [1]), both[1:]) and torch.equal(noisy([8, 7], [1, 0]), both[[1, 0]])
    assert not torch.equal(noisy([7, 8], [0, 1], seed=4), both)
    assert not action.is_identity
