"""What the tests of all families have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import pytest
from tests.zoo import SPECIMENS, Specimen

from sinkscope.models import AttentionCall


def every(fact: Callable[[Specimen], object] = lambda s: True) -> Any:
    """Parametrize over the specimens of which something is known."""
    chosen = [specimen for specimen in SPECIMENS.values() if fact(specimen)]
    return pytest.mark.parametrize("specimen", chosen, ids=lambda specimen: specimen.name)


def evaluations(calls: Sequence[AttentionCall]) -> list[list[AttentionCall]]:
    """Calls by forward pass of a denoiser."""
    return [list(some) for _, some in groupby(calls, lambda call: (call.generation, call.evaluation))]
