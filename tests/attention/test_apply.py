"""How edits reach the kernel: number of calls, untouched bits, scopes, the null control, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from tests.attention.calls import MASKS, Call, make
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sinkscope.attention import (
    STATISTICS,
    EditedCall,
    Mask,
    ReplaceValue,
    ResolvedEdit,
    ScaleLogit,
    ScaleProbability,
    mass_after,
    measure,
)
from sinkscope.attention import _apply as apply_module
from sinkscope.attention._edits import Action
from sinkscope.errors import UsageError


@pytest.mark.parametrize("action", [Mask(), ScaleLogit(shift=-1.0), ScaleProbability(0.0)], ids=str)
@pytest.mark.parametrize("mask", ["none", "keys"])
def test_one_fused_call_with_a_broadcast_bias(action: Action, mask: str) -> None:
    call = make(mask=mask)
    call.edited(ResolvedEdit(call.pick(2), action))
    ((q, k, v, bias, is_causal, _),) = call.issued
    assert q is call.q and k is call.k and v is call.v and not is_causal
    assert tuple(bias.shape) == (2, 4, 1, 17) and bias.dtype == q.dtype


def test_value_and_factor_edits_keep_the_models_mask_and_causality() -> None:
    for kind in ("bool", "causal"):
        call = make(mask=kind)
        call.edited(
            ResolvedEdit(call.pick(2), ReplaceValue("zero")), ResolvedEdit(call.pick(2), ScaleLogit(0.5))
        )
        ((_, _, _, mask, is_causal, _),) = call.issued
        assert mask is call.mask and is_causal == call.is_causal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("action", [Mask(), ScaleProbability(0.3), ReplaceValue("mean")], ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_queries_rows_and_heads_out_of_reach_keep_their_bits(
    action: Action, mask: str, dtype: torch.dtype
) -> None:
    call = make(queries=30, mask=mask, dtype=dtype)
    plain = call.plain()
    chosen = call.pick(3)
    some = torch.arange(30) % 3 == 0
    got = call.edited(ResolvedEdit(chosen, action, some))
    assert torch.equal(got[:, :, ~some], plain[:, :, ~some])
    assert not torch.equal(got[:, :, some], plain[:, :, some])
    per_row = torch.stack([some, ~some])
    got = call.edited(ResolvedEdit(chosen, action, per_row))
    assert torch.equal(got[0, :, ~some], plain[0, :, ~some]) and torch.equal(
        got[1, :, some], plain[1, :, some]
    )
    chosen[1] = False
    chosen[0, 2] = False
    got = call.edited(ResolvedEdit(chosen, action))
    assert torch.equal(got[1], plain[1]) and torch.equal(got[0, 2], plain[0, 2])
    assert not torch.equal(got[0, 0], plain[0, 0])


@pytest.mark.parametrize("mask", MASKS)
def test_the_null_control_takes_the_edited_path_and_drifts_by_rounding_only(mask: str) -> None:
    call = make(mask=mask, dtype=torch.float32)
    nothing = torch.zeros(call.shape, dtype=torch.bool)
    for action in (Mask(), ScaleLogit(), ScaleProbability(0.3)):
        got = call.edited(ResolvedEdit(nothing, action, force_path=True))
        torch.testing.assert_close(got, call.plain(), rtol=1e-5, atol=1e-5)
        if not isinstance(action, ScaleProbability):
            bias = (
                call.edited(ResolvedEdit(nothing, action, force_path=True)) is not None and call.issued[0][3]
            )
            assert bias.is_floating_point()
    only = torch.tensor([True, False])
    got = call.edited(ResolvedEdit(nothing, Mask(), force_path=True, rows=only))
    assert torch.equal(got[1], call.plain()[1])
    torch.testing.assert_close(call.after(ResolvedEdit(nothing, Mask(), force_path=True)), call.mass())


@pytest.mark.parametrize("kind", ["bool", "float", "causal"])
def test_masks_that_differ_between_queries_are_built_in_parts(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = make(mask=kind, queries=30, dtype=torch.float32)
    edits = [
        ResolvedEdit(call.pick(3), Mask()),
        ResolvedEdit(call.pick(2, 5), ReplaceValue("zero"), torch.arange(30) > 9),
    ]
    whole = call.edited(*edits)
    monkeypatch.setattr(apply_module, "MASK_BYTES", 4 * 2 * 4 * 17 * 7)
    parts = call.edited(*edits)
    assert len(call.issued) > 3 and all(
        issue[3] is None or issue[3].shape[2] <= 7 for issue in call.issued[1:]
    )
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["none", "keys", "float", "causal"])
def test_masking_every_key_gives_zero_output_and_mass_that_is_not_available(kind: str) -> None:
    call = make(mask=kind, dtype=torch.float32)
    edit = ResolvedEdit(torch.ones(call.shape, dtype=torch.bool), Mask())
    assert not bool(call.edited(edit).any())
    assert bool(torch.isnan(call.after(edit)).all())
    kept = call.edited(ResolvedEdit(edit.chosen, ScaleProbability(0.5)))
    torch.testing.assert_close(kept, call.plain(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_does_not_round_the_shift(dtype: torch.dtype) -> None:
    call = make(dtype=dtype, keys=5, queries=200, dim=8, spread=0.3)
    call.v[:] = 0
    chosen = torch.arange(5).eq(2).expand(call.shape)
    call.v[:, :, 2] = 1.0  # the output is the weight of key 2
    got = call.edited(ResolvedEdit(chosen, ScaleLogit(shift=-2.302585)))
    assert got.dtype == dtype and call.issued[0][3].dtype == torch.float32
    mass = call.after(ResolvedEdit(chosen, ScaleLogit(shift=-2.302585)))[:, :, 2]
    torch.testing.assert_close(got.float().mean((2, 3)), mass, rtol=2e-3, atol=0)


def test_under_autocast_the_output_has_the_autocast_dtype() -> None:
    call = make(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for action in (Mask(), ScaleProbability(0.5), ReplaceValue("zero")):
            assert call.edited(ResolvedEdit(call.pick(2), action)).dtype == torch.bfloat16


@pytest.mark.parametrize("action", [Mask(), ScaleLogit(0.5, 1.0), ReplaceValue("mean", 0.5)], ids=str)
def test_gradients_flow_through_kernel_edits(action: Action) -> None:
    call = make(queries=6, keys=7)
    edit = ResolvedEdit(call.pick(2), action, torch.arange(6) < 4)
    inputs = tuple(t.clone().requires_grad_() for t in (call.q, call.k, call.v))
    assert torch.autograd.gradcheck(lambda q, k, v: Call(q, k, v).edited(edit), inputs, fast_mode=True)


def test_rows_do_not_depend_on_batch_size_or_order() -> None:
    call = make(rows=3, dtype=torch.float32, queries=20)
    chosen = call.pick(3)
    for action in (Mask(), ScaleProbability(0.3), ReplaceValue("mean"), ScaleLogit(0.5, 1.0)):
        whole = call.edited(ResolvedEdit(chosen, action))
        for rows in ([1], [2, 0], [2, 1, 0]):
            part = Call(call.q[rows], call.k[rows], call.v[rows])
            assert torch.equal(part.edited(ResolvedEdit(chosen[rows], action)), whole[rows])


class Largest(TorchDispatchMode):
    """Remembers the largest storage any operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor):
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("mask", ["none", "keys", "causal"])
def test_memory_is_of_the_order_of_the_tokens(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = 2000  # one float32 matrix of all heads would take 30 MiB
    call = make(rows=1, heads=2, queries=tokens, keys=tokens, dtype=torch.float32, mask=mask)
    monkeypatch.setattr(apply_module, "MASK_BYTES", 6 * 2**20)
    limit = 6.75 * 2**20
    with Largest() as seen:
        measure(call.q, call.k, call.v, want=STATISTICS, queries={"a": None, "b": slice(9)}, **call.how)
        mass = call.mass()
    assert seen.bytes <= limit
    chosen = mass >= mass.topk(5).values[..., -1:]
    for action in (Mask(), ScaleProbability(0.3), ReplaceValue("mean")):
        with Largest() as seen:
            call.edited(ResolvedEdit(chosen, action))
            call.after(ResolvedEdit(chosen, action))
        assert seen.bytes <= limit, action


def test_sets_and_scopes_that_do_not_fit_are_refused() -> None:
    call = make()
    with pytest.raises(
        UsageError, match=r"Got chosen keys torch.bool \(2, 4, 5\); expected bool .* = \[2, 4, 17\]"
    ):
        call.edited(ResolvedEdit(torch.ones(2, 4, 5, dtype=torch.bool), Mask()))
    with pytest.raises(
        UsageError, match=r"'affected queries' is a boolean mask of shape \(5,\); expected \[12\]"
    ):
        call.edited(ResolvedEdit(call.pick(1), Mask(), torch.ones(5, dtype=torch.bool)))
    with pytest.raises(UsageError, match="'affected queries' selects none of the 12 queries"):
        call.edited(ResolvedEdit(call.pick(1), Mask(), torch.zeros(12, dtype=torch.bool)))
    with pytest.raises(UsageError, match="empty mapping of query groups"):
        mass_after(call.q, call.k, [], queries={})
    with pytest.raises(UsageError, match="needs keyed random numbers. Pass random=KeyedRandom.of"):
        call.edited(ResolvedEdit(call.pick(1), ReplaceValue("noise")))


def test_actions_of_every_stage_can_be_added() -> None:
    """Stages without a built-in action (q/k, normaliser, output) are open to others."""

    @dataclass(frozen=True)
    class Halve(Action):
        stage: ClassVar[str] = "output"
        is_identity: ClassVar[bool] = False

        def apply(self, call: EditedCall, chosen: Tensor, random: object) -> EditedCall:
            return replace(call, finish=(*call.finish, lambda out: out / 2))

    @dataclass(frozen=True)
    class DoubleQ(Halve):
        stage: ClassVar[str] = "qk"

        def apply(self, call: EditedCall, chosen: Tensor, random: object) -> EditedCall:
            return replace(call, q=call.q * 2)

    call = make()
    got = call.edited(ResolvedEdit(call.pick(1), Halve()), ResolvedEdit(call.pick(1), DoubleQ()))
    torch.testing.assert_close(got, Call(call.q * 2, call.k, call.v).plain() / 2)

    class Odd(Halve):
        stage: ClassVar[str] = "softmax"

    with pytest.raises(UsageError, match="Odd has stage 'softmax'; expected one of qk, keys"):
        call.edited(ResolvedEdit(call.pick(1), Odd()))
