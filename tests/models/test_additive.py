"""intervene(..., split=True): the same edits, receipts and draws, by the additive split."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch

import sinkscope as sk
from sinkscope.attention import _additive as split_calls
from sinkscope.models import _additive


@pytest.fixture(autouse=True)
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_calls, "SHARE", 2)  # the embedded model's have about a hundred keys


TOP = sk.Edit(sk.TopMass(keys_per_head=2), sk.Mask())
EDITS = {
    "mask": TOP,
    "shared": sk.Edit(sk.TopMass(shared_keys=3), sk.Mask(), layers=[1]),
    "logit": sk.Edit(
        sk.TopMass(keys_per_head=2, queries="text"), sk.ScaleLogit(shift=-1.0), steps=(0.0, 0.5)
    ),
    "value": sk.Edit(sk.TopMass(keys_per_head=1, within="text"), sk.ReplaceValue("mean")),
    "noise": sk.Edit(sk.TopMass(keys_per_head=1), sk.ReplaceValue("noise", amount=0.5)),
    "random": TOP.control("count"),
    "bottom": TOP.control("bottom"),
}


@pytest.fixture(scope="module")
def pipe() -> Any:
    found = sk.load("shapes")
    found.set_progress_bar_config(disable=True)
    return found


def image(pipe: Any) -> torch.Tensor:
    noise = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    prompts = ["a photo of a red circle", "a photo of two green squares"]
    return pipe(prompts, num_inference_steps=2, generator=noise, output_type="pt").images


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many calls were merged."""
    found: list[int] = []

    def merge(*args: Any, **kwargs: Any) -> torch.Tensor:
        found.append(1)
        return whole(*args, **kwargs)

    whole = _additive.merge
    with mock.patch.object(_additive, "merge", merge):
        yield found


@pytest.mark.parametrize("name", EDITS)
def test_images_and_receipts_are_those_of_the_default_way(pipe: Any, name: str) -> None:
    with sk.intervene(pipe, EDITS[name]) as plain:
        want = image(pipe)
    with warnings.catch_warnings(), counted() as merged, sk.intervene(pipe, EDITS[name], split=True) as found:
        warnings.simplefilter("error")
        got = image(pipe)
    assert len(merged) == len(found) == len(plain) > 0
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    pd.testing.assert_frame_equal(found.table(), plain.table(), rtol=1e-3, atol=1e-6)


def test_two_edits_of_one_call_are_merged_together(pipe: Any) -> None:
    both = [EDITS["mask"], EDITS["value"]]
    with sk.intervene(pipe, both):
        want = image(pipe)
    with counted() as merged, sk.intervene(pipe, both, split=True):
        torch.testing.assert_close(image(pipe), want, rtol=0, atol=1e-4)
    assert merged


def test_the_null_control_takes_the_same_way(pipe: Any) -> None:
    want = image(pipe)
    with counted() as merged, sk.intervene(pipe, TOP.control("null"), split=True) as receipt:
        torch.testing.assert_close(image(pipe), want, rtol=0, atol=1e-4)
    assert merged and not receipt.table()["keys"].any()


def test_no_edit_and_an_edit_that_changes_nothing_change_no_bit(pipe: Any) -> None:
    want = image(pipe)
    for edits in ([], sk.Edit(sk.TopMass(keys_per_head=2), sk.ScaleLogit())):
        with sk.intervene(pipe, edits, split=True):
            assert torch.equal(image(pipe), want)


@pytest.mark.parametrize(
    "edit, why",
    [
        (
            sk.Edit(sk.TopMass(keys_per_head=2), sk.Mask(), heads=[0]),
            "takes no fixed number of keys in every row",
        ),
        (sk.Edit(sk.TopMass(keys_per_head=2), sk.Mask(), branch="cond"), "no fixed number of keys"),
        (sk.Edit(sk.TopMass(keys_per_head=2), sk.Mask(), queries="text"), "changes more than these"),
        (sk.Edit(sk.MassAbove(share=0.02), sk.Mask()), "takes no fixed number"),
        (sk.Edit(sk.TopMass(keys_per_head=2), sk.ScaleProbability(0.5)), "more than these"),
        (sk.Edit(sk.Frozen(sk.TopMass(keys_per_head=2), step=0), sk.Mask()), "no fixed number"),
        (sk.Edit(sk.TopMass(keys_per_head=40), sk.Mask()), "too few keys"),
    ],
)
def test_what_cannot_be_split_runs_the_default_way_and_says_so_once(
    pipe: Any, edit: sk.Edit, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_additive, "_SAID", set())
    with sk.intervene(pipe, edit):
        want = image(pipe)
    with pytest.warns(UserWarning, match=f"split=True does not reach .*{why}") as said, counted() as merged:
        with sk.intervene(pipe, edit, split=True):
            got = image(pipe)
    assert torch.equal(got, want) and not merged and len(said) == 1
