"""Which backend measures: by name for a block or a command, else by device, never silently another."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.attention.calls import make

from sinkscope import attention, cli
from sinkscope.attention import Mask, ResolvedEdit, _backends, incoming_mass, mass_after, use_backend
from sinkscope.errors import UsageError

WHY = "cannot run this call: (the tensors are on cpu; it runs on CUDA|the package triton cannot be imported)"


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the backends that ran."""
    ran: list[str] = []

    def watch(name: str, run: _backends.Backend) -> _backends.Backend:
        return lambda *call: (ran.append(name), run(*call))[1]

    entries = {n: (e.run, e.suits, e.refuses) for n, e in _backends._BACKENDS.items()}
    monkeypatch.setattr(_backends, "_BACKENDS", {})
    for name, (run, suits, refuses) in entries.items():
        attention.register_backend(name, watch(name, run), suits=suits, refuses=refuses)
    yield ran


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the kernels are not interpreted."""
    from sinkscope.attention import _triton

    monkeypatch.setattr(_triton, "_interpreted", lambda: False)


def test_the_innermost_name_counts_and_ends_with_its_block(watched: list[str]) -> None:
    call = make(dtype=torch.float32)
    with use_backend("reference"):
        incoming_mass(call.q, call.k)
        with use_backend("rowblock"), use_backend(None):
            incoming_mass(call.q, call.k)
        attention.measure(call.q, call.k, backend="rowblock")
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    incoming_mass(call.q, call.k)
    assert watched == ["reference", "rowblock", "rowblock", "rowblock"]


def test_receipts_are_measured_by_the_named_backend_too(watched: list[str]) -> None:
    call = make(dtype=torch.float32)
    edit = ResolvedEdit(call.pick(2), Mask())
    fast = mass_after(call.q, call.k, [edit])["all"]
    with use_backend("reference"):
        slow = mass_after(call.q, call.k, [edit])["all"]
    assert watched == ["rowblock", "reference"]
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-8)


def test_a_name_that_cannot_run_here_is_an_error_before_anything_runs(compiled: None) -> None:
    with pytest.raises(UsageError, match=WHY), use_backend("triton", "cpu"):
        raise AssertionError("the block was entered")
    with pytest.raises(UsageError, match="Did you mean 'triton'"), use_backend("tritom"):
        raise AssertionError("the block was entered")
    with (
        pytest.raises(UsageError, match="Device 'cuda:77' cannot be used"),
        use_backend("rowblock", "cuda:77"),
    ):
        raise AssertionError("the block was entered")
    assert not _backends._NAMED
    call = make(dtype=torch.float32)
    with pytest.raises(UsageError, match=WHY), use_backend("triton"):
        incoming_mass(call.q, call.k)


@pytest.mark.parametrize("command", [["observe", "shapes", "--prompt", "a"], ["run", "--model", "shapes"]])
def test_commands_refuse_a_backend_before_they_load_a_model(
    command: list[str],
    compiled: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sinkscope._commands._load", lambda *args: pytest.fail("a model was loaded"))
    assert cli.main([*command, "--backend", "triton", "--device", "cpu"]) == 2
    assert "Attention backend 'triton' cannot run this call" in capsys.readouterr().err
    assert cli.main([*command, "--backend", "fast", "--device", "cpu"]) == 2
    assert "Unknown attention backend 'fast'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "how", "why"),
    [
        ({"dtype": torch.float64}, {}, "q, k, v are torch.float64"),
        ({"dim": 300}, {}, "the head size is 300"),
    ],
)
def test_what_the_gpu_kernels_refuse_is_measured_all_the_same_and_said_once(
    change: dict[str, Any], how: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    entry = replace(_backends._BACKENDS["triton"], suits=lambda device, dtype: True)  # as on a GPU
    monkeypatch.setitem(_backends._BACKENDS, "triton", entry)
    monkeypatch.setattr(_backends, "_SAID", set())
    call = make(**{"dtype": torch.float32, "spread": 0.5, **change})
    with pytest.warns(UserWarning, match=f"'triton' does not run here: {why}.*The next one measures"):
        got = attention.measure(call.q, call.k, **how).mass["all"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attention.measure(call.q, call.k, **how)
    want = attention.measure(call.q, call.k, backend="reference", **how).mass["all"]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)
