"""Sides of guidance told by embeddings: compared once per tensor, and again when it changes."""

from __future__ import annotations

import pytest
import torch

import sinkscope.models._prompts as book
from sinkscope.models._prompts import Prompts


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count: list[int] = []
    among = book._among
    monkeypatch.setattr(book, "_among", lambda row, side: count.append(1) or among(row, side))
    return count


def test_the_same_tensor_is_compared_once_and_a_changed_one_again(compared: list[int]) -> None:
    positive, negative = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    prompts = Prompts(positive=positive, negative=negative)
    both = torch.cat([negative, positive])
    told = ["uncond", "uncond", "cond", "cond"]
    assert prompts.sides({"encoder_hidden_states": both}, 4) == told
    first = len(compared)
    assert prompts.sides({"encoder_hidden_states": both}, 4) == told
    assert len(compared) == first
    assert prompts.sides({"encoder_hidden_states": both.clone()}, 4) == told
    assert len(compared) == 2 * first
    both.copy_(torch.cat([positive, negative]))  # in place
    assert prompts.sides({"encoder_hidden_states": both}, 4) == told[::-1]
    both[0] += 1
    assert prompts.sides({"encoder_hidden_states": both}, 4) is None


def test_inference_tensors_have_no_version_and_are_compared_each_time(compared: list[int]) -> None:
    with torch.inference_mode():
        positive, negative = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
        prompts, both = Prompts(positive=positive, negative=negative), torch.cat([positive, negative])
        for _ in range(2):
            assert prompts.sides({"encoder_hidden_states": both}, 2) == ["cond", "uncond"]
    assert len(compared) == 8
