"""Where Triton kernels run in the tests of this room."""

from __future__ import annotations

import pytest
import torch

from sinkscope.attention import _triton


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    pytest.importorskip("triton", reason="NOT TESTED: the Triton kernels, because triton is not installed")
    interpreted = _triton._interpreted()
    if request.param == "cuda" and (interpreted or not torch.cuda.is_available()):
        pytest.skip("NOT TESTED on a GPU: there is none, or TRITON_INTERPRET=1 is set")
    if request.param == "interpreter" and not interpreted:
        pytest.skip("NOT TESTED in the interpreter: kernels are compiled here; TRITON_INTERPRET=1 does")
    return torch.device("cpu" if request.param == "interpreter" else "cuda")
