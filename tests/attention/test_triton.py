"""The Triton backend against the float64 reference: in Triton's interpreter, and (marked `gpu`) on a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from tests.attention.calls import Call, make, moved

from sinkscope.attention import STATISTICS, _backends, _triton, incoming_mass, measure
from sinkscope.attention._operands import Operands
from sinkscope.attention._triton import Blocks
from sinkscope.errors import NonFiniteError, UsageError

SMALL = Blocks(16, 16)
HALF = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16, so that small calls cross several of them."""
    whole = _triton._run
    monkeypatch.setattr(_triton, "_run", lambda ops, weights, want, blocks: whole(ops, weights, want, SMALL))


def small(seed: int = 0, **changes) -> Call:
    given = {"rows": 1, "heads": 2, "kv_heads": 1, "queries": 21, "keys": 19, "dim": 8}
    return make(seed, **(given | {"dtype": torch.float32} | changes))


def compare(call: Call, **how) -> None:
    """Every statistic equals the reference's."""
    args = {"want": STATISTICS, **call.how, **how}
    got = measure(call.q, call.k, call.v, backend="triton", **args)
    want = measure(call.q, call.k, call.v, backend="reference", **args)
    for group, mass in got.mass.items():
        assert mass.dtype == torch.float32
        torch.testing.assert_close(mass, want.mass[group], rtol=1e-5, atol=1e-9, equal_nan=True)
        for name in ("entropy", "max_weight"):
            found, goal = getattr(got, name)[group], getattr(want, name)[group]
            torch.testing.assert_close(found.double(), goal.double(), rtol=1e-5, atol=1e-5, equal_nan=True)
    # Outputs of half inputs: weights are carried by two half numbers.
    wide = 5e-5 if call.v.dtype in HALF else 1e-5
    for name, tol in (("lse", 1e-5), ("concentration", 1e-5), ("output", wide), ("max_activation", wide)):
        torch.testing.assert_close(getattr(got, name).double(), getattr(want, name), rtol=tol, atol=tol)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("mask", ["none", "bool", "float", "keys", "causal"])
def test_every_statistic_equals_the_reference(device: torch.device, mask: str, dtype: torch.dtype) -> None:
    compare(moved(small(1, mask=mask, dtype=dtype), device))


@pytest.mark.parametrize("dim", [4, 40, 64, 72, 128, 160])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_head_sizes_are_padded(device: torch.device, dim: int, dtype: torch.dtype) -> None:
    compare(moved(small(2, dim=dim, dtype=dtype, spread=0.6, heads=1), device))


def test_several_rows_groups_and_weights(device: torch.device) -> None:
    call = moved(small(3, rows=2, mask="keys", scale=0.4), device)
    rows = torch.arange(2 * 21, device=device).view(2, 21) % 3 != 1
    groups = {"all": None, "text": slice(0, 5), "one": torch.tensor([20]), "rows": rows}
    weight = torch.rand(2, 2, 21, generator=torch.Generator().manual_seed(0)).to(device)
    compare(call, queries=groups, row_weight=weight)


def test_any_number_of_groups_that_overlap_or_not(device: torch.device) -> None:
    groups = {str(n): slice(n, None) for n in range(5)} | {"ends": torch.tensor([0, 20]), "mid": slice(7, 9)}
    for mask in ("none", "causal"):
        for dtype in (torch.float32, torch.float16):
            compare(moved(small(4, heads=1, mask=mask, dtype=dtype), device), queries=groups)


@pytest.mark.parametrize("enough", [1, 10**6])
@pytest.mark.parametrize("mask", ["none", "causal"])
def test_cutting_the_queries_changes_nothing(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, enough: int, mask: str
) -> None:
    monkeypatch.setattr(_triton, "ENOUGH_PROGRAMS", enough)
    compare(moved(small(5, heads=1, queries=149, keys=33, mask=mask), device), want=("mass", *STATISTICS[1:]))


@pytest.mark.parametrize("low", [-torch.inf, -1e4, -30.0])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_masks_over_keys_alone_in_half_types(device: torch.device, dtype: torch.dtype, low: float) -> None:
    """Biases per row and head, a row without keys, and a boolean mask beside them."""
    call = small(13, rows=3, mask="keys", dtype=dtype)
    keep = call.mask.clone()
    keep[1] = False
    bias = torch.where(torch.rand(3, 2, 1, 19, generator=torch.Generator().manual_seed(1)) > 0.3, 0.5, low)
    bias[..., 0] = 0.0
    for masks in ((keep,), (bias,), (keep, bias), (bias.half(), bias)):
        ops = Operands(
            call.q.to(device), call.k.to(device), call.v.to(device), tuple(m.to(device) for m in masks)
        )
        assert _triton._is_plain(ops)
        weights = torch.rand(1, 1, 2, 21, generator=torch.Generator().manual_seed(2)).to(device)
        got, want = (run(ops, weights, set(STATISTICS)) for run in (_triton.run, _backends._reference))
        for name, tolerance in (
            ("mass", 1e-4),
            ("lse", 1e-5),
            ("entropy", 1e-4),
            ("peak", 1e-5),
            ("output", 1e-4),
        ):
            found, goal = getattr(got, name).double(), getattr(want, name).double()
            torch.testing.assert_close(found, goal, rtol=tolerance, atol=5e-5 if name == "output" else 1e-5)
        assert torch.equal(got.alive, want.alive)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_capped_logits(device: torch.device, dtype: torch.dtype) -> None:
    call = small(12, mask="keys", dtype=dtype, spread=8.0)
    call.softcap = 4.0  # most logits lie far beyond it, and their exponentials overflow
    compare(moved(call, device))


@pytest.mark.parametrize("low", [None, -torch.inf, torch.finfo(torch.float32).min])
def test_queries_without_keys(device: torch.device, low: float | None) -> None:
    call = small(6, mask="bool")
    call.mask[:, :, :5] = False
    if low is not None:
        call.mask = torch.where(call.mask, 0.0, low)
    call = moved(call, device)
    got = measure(call.q, call.k, call.v, mask=call.mask, want=STATISTICS, backend="triton")
    if low is None or low == -torch.inf:
        compare(call, queries={"all": None, "dead": slice(0, 5)})
        assert bool((got.lse[:, :, :5] == -torch.inf).all()) and bool((got.output[:, :, :5] == 0).all())
    else:  # a query whose keys all have the same low bias attends to all of them, in float32 uniformly
        compared = measure(call.q, call.k, call.v, mask=call.mask, want=STATISTICS, backend="rowblock")
        torch.testing.assert_close(got.mass["all"], compared.mass["all"], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(got.output, compared.output, rtol=1e-5, atol=1e-5)


def test_large_logits_keep_their_digits(device: torch.device) -> None:
    call = moved(small(7, heads=1, spread=30.0, scale=1.0), device)
    call.q, call.k = call.q.round(), call.k.round()  # so that float32 holds the logits exactly
    compare(call)


def test_positions_and_two_masks(device: torch.device) -> None:
    call = moved(small(8, mask="keys"), device)
    full = moved(small(9, mask="float"), device).mask
    where = torch.arange(21).flip(0).to(device)
    ops = Operands(call.q, call.k, call.v, (call.mask, full), is_causal=True, positions=where)
    weights = torch.ones(1, 1, 1, 21, device=device)
    got, want = (_backends._BACKENDS[n].run(ops, weights, STATISTICS) for n in ("triton", "reference"))
    for name in ("mass", "entropy", "peak", "output"):
        found = getattr(got, name).double()
        torch.testing.assert_close(found, getattr(want, name).double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(got.alive, want.alive)


def test_mixed_dtypes_and_a_mask_of_another(device: torch.device) -> None:
    call = small(10, mask="float", heads=1)
    call.k, call.mask = call.k.half(), call.mask.double()
    compare(moved(call, device))


def test_bits_repeat_and_do_not_depend_on_the_batch(device: torch.device) -> None:
    call = moved(small(11, rows=3, heads=1), device)
    first, again = (measure(call.q, call.k, call.v, want=STATISTICS, backend="triton") for _ in range(2))
    part = measure(call.q[1:2], call.k[1:2], call.v[1:2], want=STATISTICS, backend="triton")
    assert torch.equal(first.mass["all"], again.mass["all"]) and torch.equal(first.output, again.output)
    assert torch.equal(first.mass["all"][1:2], part.mass["all"]) and torch.equal(first.lse[1:2], part.lse)


def test_views_are_read_in_place(device: torch.device) -> None:
    joint = torch.randn(1, 21, 3, 2, 8, generator=torch.Generator().manual_seed(0)).to(device)
    q, k, v = (joint[:, :, i].transpose(1, 2) for i in range(3))
    ops = Operands(q, k, v, (torch.ones(1, 1, 1, 21, dtype=torch.bool, device=device),))
    found = _triton._arguments(ops, SMALL)
    assert found["q"] is q and found["k"] is k and found["q_token"] == 48
    assert found["mask0"].data_ptr() == ops.masks[0].data_ptr() and found["m0_query"] == 0
    compare(Call(q, k, v))


def test_overflowing_logits_are_an_error(device: torch.device) -> None:
    q = torch.full((1, 1, 4, 4), 1e30, device=device)
    with pytest.raises(NonFiniteError, match="the logits"):
        measure(q, q, want=("mass", "lse"), backend="triton")


def test_the_blocks_of_a_gpu_are_powers_of_two_and_depend_on_the_head_alone() -> None:
    for dim in (1, 40, 64, 72, 128, 160, 256):
        for dtype in _triton.DTYPES:
            tensors = [torch.zeros(n, n, n, dim, dtype=dtype) for n in (1, 3)]
            sizes = {_triton.pick_blocks(Operands(q, q)) for q in tensors}
            (size,) = sizes
            assert all(n >= 16 and n & (n - 1) == 0 for n in size[:2]) and size.warps in (4, 8)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dtype": torch.float64}, "q, k, v are torch.float64; it computes float16, bfloat16 and float32"),
        ({"dim": 300}, "head size is 300; it takes 1 to 256"),
    ],
)
def test_a_call_it_cannot_run_is_an_error_if_it_was_named(change: dict, text: str) -> None:
    pytest.importorskip("triton")
    call = small(**change)
    with pytest.raises(UsageError, match=f"'triton' cannot run this call: .*{text}.*Leave `backend` out"):
        measure(call.q, call.k, backend="triton")


def test_without_triton_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_triton, "_missing", lambda: "No module named 'triton'")
    call = small()
    with pytest.raises(UsageError, match=r"No module named 'triton'.*pip install 'sinkscope\[gpu\]'"):
        measure(call.q, call.k, backend="triton")


def test_on_the_cpu_it_is_refused_and_never_imported_unless_named() -> None:
    code = """
import sys, torch
from sinkscope.attention import measure
from sinkscope.errors import UsageError
q = torch.randn(1, 1, 4, 8)
measure(q, q)
assert "sinkscope.attention._triton_kernels" not in sys.modules
try:
    measure(q, q, backend="triton")
except UsageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.environ.pop('TRITON_INTERPRET', None)\n" + code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        "the tensors are on cpu; it runs on CUDA devices" in done.stdout
        or "cannot be imported" in done.stdout
    )


@pytest.fixture
def picked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if every tensor suited the backend, as on CUDA devices."""
    entry = replace(_backends._BACKENDS["triton"], suits=lambda device, dtype: True)
    monkeypatch.setitem(_backends._BACKENDS, "triton", entry)
    monkeypatch.setattr(_backends, "_SAID", set())
    yield


def test_a_refused_call_falls_back_with_the_same_bits_and_says_so_once(picked: None) -> None:
    pytest.importorskip("triton")
    call = small(dtype=torch.float64)
    with pytest.warns(UserWarning, match="'triton' does not run here: q, k, v are torch.float64"):
        got = incoming_mass(call.q, call.k)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(incoming_mass(call.q, call.k), got)
    assert torch.equal(measure(call.q, call.k, backend="rowblock").mass["all"], got)


def test_only_cuda_tensors_pick_it() -> None:
    suits = _backends._BACKENDS["triton"].suits
    for dtype in (torch.float32, torch.float16):
        assert suits(torch.device("cuda"), dtype)
        assert not any(suits(torch.device(name), dtype) for name in ("cpu", "mps", "meta"))
    assert list(_backends._BACKENDS)[-1] == "triton"


@pytest.mark.slow
def test_the_kernels_compile_for_gpus_that_are_not_here() -> None:
    """Machine code of two generations: on matrix units, nothing spilled, little shared memory."""
    pytest.importorskip("triton.backends.nvidia", reason="NOT TESTED: machine code for GPUs, without triton")
    script = Path(__file__).parents[2] / "benchmarks" / "kernels.py"
    options = ["--json", "--architectures", "80", "90", "--dims", "64", "--dtypes"]
    found = []
    for dtype in ("bfloat16", "float32"):
        done = subprocess.run([sys.executable, script, *options, dtype], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found += [json.loads(line) for line in done.stdout.splitlines()]
    names = {(row["kernel"], row["dtype"], row["sm"]) for row in found}
    kernels = ("_rowlse + entropy", "_rowlse + output", "_colsum", "_colsum + entropy")
    wanted = set(product(kernels, ("bfloat16", "float32"), (80, 90)))
    assert names == wanted | {("_merge", "bfloat16", 80), ("_merge", "bfloat16", 90)}
    for row in found:
        assert row["spilled"] == 0 and row["shared"] <= 99, row
        # What loops over blocks of half types loops around matrix products.
        looped = row["dtype"] == "bfloat16" and row["kernel"] != "_merge"
        assert (row["per_logit"] is not None) == looped, row
