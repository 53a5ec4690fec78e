"""The log-sum-exp of the model's own kernel: the same bits, and what is measured from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.attention.calls import Call, make, moved
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sinkscope.attention import _fused, _triton, measure, model_kernel_with_lse, reference, use_backend
from sinkscope.attention._operands import Operands

HALF = [torch.float16, torch.bfloat16]


def small(dtype: torch.dtype, device: torch.device) -> Call:
    call = make(3, rows=2, heads=2, queries=37, keys=41, dim=16, spread=1.0, dtype=dtype, scale=0.3)
    return moved(call, device)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_output_has_the_bits_of_the_models_own_call(device: torch.device, dtype: torch.dtype) -> None:
    call = small(dtype, device)
    with use_backend("triton"):
        found = model_kernel_with_lse(call.q, call.k, call.v, call.scale)
    assert found is not None
    assert torch.equal(found[0], F.scaled_dot_product_attention(call.q, call.k, call.v, scale=call.scale))
    want = reference.logits(Operands(call.q, call.k, scale=call.scale)).logsumexp(-1)
    torch.testing.assert_close(found[1].double(), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_mass_and_entropy_follow_from_it(device: torch.device, dtype: torch.dtype) -> None:
    call = small(dtype, device)
    groups = {"all": None, "first": slice(0, 9), "last": slice(9, None), "rows": torch.arange(37) % 5 == 1}
    how = {"scale": call.scale, "queries": groups, "want": ("mass", "entropy")}
    want = measure(call.q, call.k, backend="reference", **how)
    with use_backend("triton"):
        shared = model_kernel_with_lse(call.q, call.k, call.v, call.scale)
        assert shared is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_triton, "_row_pass", None)  # only the column pass runs
            got = measure(call.q, call.k, lse=shared[1], **how)
    for name in groups:
        torch.testing.assert_close(got.mass[name], want.mass[name].float(), rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(
            got.entropy[name].double(), want.entropy[name].double(), rtol=1e-4, atol=1e-4
        )


def test_what_needs_more_than_it_is_measured_as_ever(device: torch.device) -> None:
    call = small(torch.float16, device)
    wrong = torch.zeros(call.q.shape[:3], device=device)
    want = measure(call.q, call.k, want=("mass", "concentration"), scale=call.scale, backend="triton")
    got = measure(
        call.q, call.k, want=("mass", "concentration"), scale=call.scale, backend="triton", lse=wrong
    )
    assert torch.equal(got.mass["all"], want.mass["all"])
    plain = measure(call.q, call.k, scale=call.scale, lse=wrong, backend="rowblock")
    assert torch.equal(
        plain.mass["all"], measure(call.q, call.k, scale=call.scale, backend="rowblock").mass["all"]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda call: (call.q.float(), call.k.float(), call.v.float()),
        lambda call: (call.q, call.k.float(), call.v),
        lambda call: (call.q[0], call.k[0], call.v[0]),
        lambda call: (call.q[..., :6], call.k[..., :6], call.v[..., :6]),
        lambda call: (call.q, call.k[:, :1], call.v[:, :1]),
        lambda call: (call.q.clone().requires_grad_(), call.k, call.v),
    ],
    ids=["float32", "mixed", "three axes", "padded head", "grouped keys", "gradients"],
)
def test_other_calls_are_issued_as_they_are(
    device: torch.device, change: Callable[[Call], tuple[Tensor, Tensor, Tensor]]
) -> None:
    with use_backend("triton"):
        assert model_kernel_with_lse(*change(small(torch.float16, device)), None) is None


def test_another_kernel_or_backend_is_left_alone(device: torch.device) -> None:
    call = small(torch.bfloat16, device)
    tensors = (call.q, call.k, call.v, call.scale)
    with use_backend("rowblock"):
        assert model_kernel_with_lse(*tensors) is None
    with use_backend("triton"), sdpa_kernel(SDPBackend.MATH):
        assert model_kernel_with_lse(*tensors) is None
    with use_backend("triton"), torch.autocast(device.type, dtype=torch.bfloat16):
        assert model_kernel_with_lse(*tensors) is None
    assert not _fused.on_triton(Operands(call.q, call.k, masks=(torch.ones(1, 1, 1, 41) > 0,)))
