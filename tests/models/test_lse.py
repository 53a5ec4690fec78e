"""Observing where the model's own kernel gives its log-sum-exp away: in Triton's interpreter, on the CPU."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sinkscope as sk
from sinkscope.attention import use_backend
from sinkscope.models import _lse


class Attention(nn.Module):
    """Two attention calls in a row."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            q = x.unflatten(-1, (2, 8)).transpose(1, 2)
            x = x + F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)
        return x


@pytest.fixture
def issued(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every call the model issued, whether its log-sum-exp was kept."""
    from sinkscope.models import _issue

    pytest.importorskip("triton", reason="NOT TESTED: sharing the log-sum-exp, without triton")
    found: list[bool] = []

    def watched(func: Any, call: Any) -> Tensor | None:
        output = _lse.issued_with_lse(func, call)
        found.append(output is not None)
        return output

    monkeypatch.setattr(_issue, "issued_with_lse", watched)
    return found


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0)).bfloat16()


def test_an_observation_measures_from_it_and_changes_no_bit(issued: list[bool], x: Tensor) -> None:
    model = Attention()
    want = model(x)
    with sk.observe(model) as plain:
        model(x)
    assert issued == [False, False]  # on the CPU the row-block pass is the faster way
    with use_backend("triton"), sk.observe(model) as seen:
        assert torch.equal(model(x), want)
    assert issued[2:] == [True, True]
    pd.testing.assert_frame_equal(seen.summary(), plain.summary(), rtol=1e-3, atol=1e-4)


def test_an_edit_inside_leaves_nothing_that_does_not_belong(issued: list[bool], x: Tensor) -> None:
    """The edit issues another call than the one that is observed, or issues it several times."""
    model = Attention()
    edit = sk.Edit(sk.TopMass(keys_per_head=2), sk.Mask())
    value = sk.Edit(sk.TopMass(keys_per_head=2), sk.ReplaceValue("zero"))
    for each in (edit, value):
        tables = []
        for backend in ("rowblock", "triton"):
            with use_backend(backend), sk.observe(model) as seen, sk.intervene(model, each):
                model(x)
            tables.append(seen.summary())
        pd.testing.assert_frame_equal(*tables, rtol=2e-3, atol=1e-3)
