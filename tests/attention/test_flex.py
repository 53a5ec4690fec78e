"""FlexAttention with swapped roles against float64: uncompiled on the CPU, compiled on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.attention.calls import Call, make
from torch import Tensor

from sinkscope.attention import _flex, measure
from sinkscope.attention._operands import Operands
from sinkscope.errors import UsageError

WANT = ("mass", "lse")
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def compare(call: Call, tol: float, **how) -> None:
    args = {"want": WANT, **call.how, **how}
    got = measure(call.q, call.k, backend="flex", **args)
    want = measure(call.q, call.k, backend="reference", **args)
    for group, value in got.mass.items():
        goal = want.mass[group].double()
        torch.testing.assert_close(value.double(), goal, rtol=tol, atol=tol, equal_nan=True)
    torch.testing.assert_close(got.lse.double(), want.lse, rtol=tol, atol=tol)


# Each shape and mask is traced anew, which takes most of a second: few, but different ones.
@pytest.mark.parametrize(
    ("mask", "dtype", "kv"),
    [
        ("none", torch.bfloat16, 1),
        ("bool", torch.float32, 4),
        ("float", torch.float32, 2),
        ("keys", torch.float16, 2),
        ("causal", torch.float32, 1),
    ],
)
def test_it_measures_what_the_reference_does(mask: str, dtype: torch.dtype, kv: int) -> None:
    call = make(7, mask=mask, dtype=dtype, kv_heads=kv, scale=0.3)
    compare(call, 3e-5, queries={"first": slice(0, 7)})


def test_queries_without_keys_and_a_cap() -> None:
    call = make(1, mask="bool", dtype=torch.float32)
    call.mask[:, :, :5] = False
    compare(call, 1e-5, queries={"all": None, "dead": slice(0, 5)})
    compare(make(2, dtype=torch.float32), 1e-5, softcap=3.0)


def test_what_it_cannot_do_is_said() -> None:
    call = make(3, dtype=torch.float32)
    with pytest.raises(UsageError, match="'flex' was asked for entropy; it measures lse, mass"):
        measure(call.q, call.k, want=("entropy",), backend="flex")
    with pytest.raises(
        UsageError, match="'flex' cannot run this call: q is torch.float32 and k is torch.flo"
    ):
        measure(call.q, call.k.half(), backend="flex")


def test_without_triton_it_says_that_it_is_no_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCuda:
        type = "cuda"

    ops = Operands(*(torch.zeros(1, 1, 2, 4) for _ in range(2)))
    monkeypatch.setattr(_flex, "_compiler", lambda: False)
    monkeypatch.setattr(Tensor, "device", OnCuda(), raising=False)
    found = _flex.refusal(ops)
    monkeypatch.undo()
    assert found == "it is compiled by Triton, which is not here"


@pytest.mark.gpu
@pytest.mark.parametrize("mask", ["none", "bool", "float", "keys", "causal"])
def test_compiled_on_a_gpu(mask: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("NOT TESTED: FlexAttention compiled for a GPU, because there is none")
    call = make(4, queries=200, keys=200, dim=64, mask=mask, dtype=torch.float16, spread=1.0)
    compare(replace(call, **{n: t.cuda() for n, t in vars(call).items() if isinstance(t, Tensor)}), 1e-4)
