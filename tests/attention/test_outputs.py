"""Edits on the query side: who is chosen, and what the replaced outputs are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sinkscope.attention import (
    Frozen,
    KeyedRandom,
    Mask,
    RandomQueries,
    ReplaceOutput,
    ResolvedEdit,
    SelectionContext,
    TopConcentration,
    measure,
    reference,
)
from sinkscope.errors import UsageError

from .calls import MASKS, Call, calls, make

quick = settings(max_examples=25, deadline=None)


@quick
@given(call=calls(masks=MASKS))
def test_concentration_is_the_largest_weight_of_every_query(call: Call) -> None:
    # Asked for with a group of few queries, it still covers all of them.
    got = measure(call.q, call.k, want=("concentration",), queries={"one": slice(0, 1)}, **call.how)
    want = reference.weights(call.q, call.k, **call.how).amax(-1)
    assert got.concentration is not None
    torch.testing.assert_close(got.concentration, want, rtol=1e-9, atol=1e-12)


@quick
@given(call=calls(), count=st.integers(1, 5), shared=st.booleans(), data=st.data())
def test_the_most_concentrated_queries_are_chosen(
    call: Call, count: int, shared: bool, data: st.DataObject
) -> None:
    total = call.q.shape[2]
    count = min(count, total)
    first = data.draw(st.integers(count, total))
    image = torch.arange(total) < first
    ctx = call.context(queries={"image": image, "all": torch.ones_like(image)})
    budget = {"shared_queries" if shared else "queries_per_head": count}
    chosen = TopConcentration(**budget).choose(ctx)
    scores = reference.weights(call.q, call.k, **call.how).amax(-1)
    scores = scores.mean(1, keepdim=True).expand_as(scores) if shared else scores
    assert chosen.shape == call.q.shape[:3] and bool((chosen.sum(-1) == count).all())
    assert not bool(chosen[..., ~image].any())
    worst = scores.masked_fill(~chosen, torch.inf).amin(-1)
    rest = scores.masked_fill(chosen | ~image, -torch.inf).amax(-1)
    assert bool((worst >= rest - 1e-12).all())
    everyone = TopConcentration(queries_per_head=total, queries="all").choose(ctx)
    assert bool(everyone.all())
    drawn = RandomQueries(**budget).choose(ctx)
    assert bool((drawn.sum(-1) == count).all()) and not bool(drawn[..., ~image].any())
    assert not shared or bool((drawn == drawn[:, :1]).all())


def draw(units: list[int], step: int = 0, seed: int = 0) -> Tensor:
    random = KeyedRandom.of(units, ["cond"] * len(units), "a", step)
    ctx = SelectionContext((len(units), 4, 9), {}, random, queries={"all": torch.ones(30) > 0})
    return RandomQueries(queries_per_head=3, seed=seed).choose(ctx)


def test_random_queries_are_keyed() -> None:
    both = draw([7, 8])
    assert torch.equal(draw([8, 7]), both[[1, 0]]) and torch.equal(draw([8]), both[1:])
    for other in (draw([8], step=1), draw([8], seed=1), draw([7])):
        assert not torch.equal(other, both[1:])


@quick
@given(call=calls(masks=("none", "keys", "causal")), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_replaced_row_is_the_mean_and_every_other_row_keeps_its_bits(
    call: Call, count: int, seed: int
) -> None:
    chosen = call.pick_queries(count, seed)
    plain, heads = call.plain(), call.q.shape[1]
    v = call.v.repeat_interleave(heads // call.v.shape[1], 1)
    seen = torch.ones(1, v.shape[2]) if call.mask is None else call.mask[:, 0, 0].double()
    uniform = (v * seen[:, None, :, None]).sum(2) / seen.sum(-1)[:, None, None]
    average = reference.output(call.q, call.k, call.v, **call.how).mean(2)
    for name, target in (("mean_value", uniform), ("mean_output", average), ("zero", 0 * uniform)):
        got = call.edited(ResolvedEdit(chosen, ReplaceOutput(name)))
        assert torch.equal(got[~chosen], plain[~chosen])
        want = target[:, :, None].expand_as(got)
        torch.testing.assert_close(got[chosen], want[chosen], rtol=1e-9, atol=1e-12)
    # Weights stay, so mass does.
    torch.testing.assert_close(call.after(ResolvedEdit(chosen, ReplaceOutput("zero"))), call.mass())


def test_targets_do_not_feel_other_edits_of_the_call() -> None:
    call = make(3, queries=17, keys=17)
    chosen, masked = call.pick_queries(2), ResolvedEdit(call.pick(3), Mask(), torch.arange(17) < 9)
    for name in ("mean_value", "mean_output"):
        alone = call.edited(ResolvedEdit(chosen, ReplaceOutput(name)))
        both = call.edited(masked, ResolvedEdit(chosen, ReplaceOutput(name)))
        assert torch.equal(both[chosen], alone[chosen])


def test_errors() -> None:
    call = make()
    with pytest.raises(UsageError, match="exactly one budget: queries_per_head=... or shared_queries"):
        TopConcentration()
    with pytest.raises(UsageError, match="at least 1"):
        RandomQueries(shared_queries=0)
    with pytest.raises(UsageError, match="13 queries per head, but only 12 are there .* at most 12"):
        TopConcentration(queries_per_head=13).choose(call.context())
    with pytest.raises(UsageError, match="Unknown query group 'text'"):
        TopConcentration(queries_per_head=1, queries="text").choose(call.context())
    with pytest.raises(UsageError, match="concentration="):
        TopConcentration(queries_per_head=1).choose(call.context(concentration=None))
    with pytest.raises(UsageError, match="output target"):
        ReplaceOutput("mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"chosen queries .* \[row, head, query\] = \[2, 4, 12\]"):
        call.edited(ResolvedEdit(call.pick(1), ReplaceOutput("zero")))


def test_frozen_queries() -> None:
    call = make()
    frozen = Frozen(TopConcentration(queries_per_head=2), step=1)
    assert frozen.side == "queries"
    assert not bool(frozen.choose(call.context(step=0)).any())
    assert frozen.choose(call.context(step=0)).shape == (2, 4, 12)
