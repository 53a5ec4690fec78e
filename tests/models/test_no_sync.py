"""No number is read while a model's forward pass runs, so that a GPU is never waited for inside a step.

Shown on the CPU: what reads a number of a tensor, or has a size that depends on one, is forbidden inside the
handlers, and the handlers are told to put reading off as they do on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sinkscope as sk
from sinkscope.attention import deferred
from sinkscope.attention._questions import Questions
from sinkscope.errors import NonFiniteError, UsageError
from sinkscope.models import _intervene, _late, _observe

READS = (
    "_local_scalar_dense",
    "nonzero",
    "nonzero_static",
    "masked_select",
    "_unique2",
    "unique_dim",
    "equal",
)
METHODS = ("tolist", "cpu", "numpy", "__array__")


class SyncError(AssertionError):
    pass


class _Forbid(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in args[1]
        )
        if name in READS or by_mask or "repeat_interleave.Tensor" in str(func):
            raise SyncError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise SyncError("a tensor was read")


@pytest.fixture
def put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_late, "waits", lambda call: True)


@contextmanager
def reading_forbidden(*, late: bool = True) -> Iterator[list[str]]:
    """Inside, handlers run with reading forbidden; gives the names of the sites they ran at."""
    ran: list[str] = []

    def guarded(whole: Any) -> Any:
        def call_it(self: Any, call: Any, run: Any) -> Any:
            with _Forbid(), pytest.MonkeyPatch.context() as patch:
                for name in METHODS:
                    patch.setattr(torch.Tensor, name, _refuse)
                ran.append(call.site.name)
                return whole(self, call, run)

        return call_it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_late, "waits", lambda call: late)
        for kind in (_intervene._Editor, _observe._Recorder):
            patch.setattr(kind, "__call__", guarded(kind.__call__))
        yield ran


@pytest.fixture(scope="module")
def pipe() -> Any:
    found = sk.load("shapes")
    found.set_progress_bar_config(disable=True)
    return found


def image(pipe: Any) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    return pipe("a photo of a red circle", num_inference_steps=2, generator=noise, output_type="pt").images


EDITS = {
    "mask": sk.Edit(sk.TopMass(keys_per_head=2), sk.Mask()),
    "one branch, some heads": sk.Edit(
        sk.TopMass(shared_keys=2), sk.Mask(), layers=[1, 3], branch="cond", heads=[0]
    ),
    "value": sk.Edit(sk.TopMass(keys_per_head=1, within="text"), sk.ReplaceValue("mean")),
    "probability": sk.Edit(sk.BottomMass(keys_per_head=3), sk.ScaleProbability(0.5), layers=[0]),
    "logit": sk.Edit(sk.NextMass(keys_per_head=1), sk.ScaleLogit(shift=-1.0), layers=[2]),
}
EDITS["random"] = EDITS["mask"].control("count")
EDITS["null"] = EDITS["mask"].control("null")


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("receipt", [False, True, "full"], ids=["bare", "receipt", "full"])
def test_an_edited_generation_reads_nothing_inside_a_step(pipe: Any, name: str, receipt: Any) -> None:
    with reading_forbidden() as ran, sk.intervene(pipe, EDITS[name], receipt=receipt) as found:
        got = image(pipe)
    with sk.intervene(pipe, EDITS[name], receipt=receipt) as plain:
        want = image(pipe)
    assert len(ran) >= len(found) == len(plain) > 0
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    pd.testing.assert_frame_equal(found.table(), plain.table(), rtol=1e-4)


def test_observing_reads_nothing_inside_a_step(pipe: Any) -> None:
    with reading_forbidden() as ran, sk.observe(pipe, queries=["image", "text"]) as seen:
        image(pipe)
        inside = seen.summary()  # before the block ends everything of the run is there
    assert ran and len(inside) == len(seen.summary())
    assert bool(torch.isfinite(seen.mass(layer=1, queries="image")).all())


def test_the_guard_sees_what_reads_at_once(pipe: Any) -> None:
    with pytest.raises(SyncError), reading_forbidden(late=False), sk.intervene(pipe, EDITS["mask"]):
        image(pipe)
    with pytest.raises(SyncError), reading_forbidden(late=False), sk.observe(pipe):
        image(pipe)
    with pytest.raises(SyncError), _Forbid():
        torch.zeros(3)[torch.ones(3) > 0]


class Attention(torch.nn.Module):
    def forward(self, q: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, q, q)


def test_late_checks_say_what_is_wrong_and_where(put_off: None, pipe: Any) -> None:
    many = sk.Edit(sk.TopMass(keys_per_head=100), sk.Mask())
    with pytest.raises(UsageError, match="keys_per_head=100, but only"), sk.intervene(pipe, many):
        image(pipe)
    q = torch.zeros(1, 2, 120, 8)
    q[0, 0, 0, 0] = torch.nan
    model = Attention()
    with pytest.raises(NonFiniteError, match="At .*step 0: NaN or infinity in q"), sk.observe(model):
        model(q)
    with (
        pytest.raises(NonFiniteError, match="Got NaN or infinity in q and k and v"),
        sk.intervene(model, many),
    ):
        model(q)


def test_questions_are_answered_in_order_and_once() -> None:
    questions, said = Questions(), []

    def check(numbers: list[float]) -> None:
        said.append(numbers)
        if numbers == [2.0]:
            raise NonFiniteError("two")

    with deferred(questions, "layer 3"):
        from sinkscope.attention._questions import ask

        ask(torch.tensor([1, 5]), check)
        ask(torch.tensor(2.0), check)
        questions.then(lambda: said.append("after"))
    assert said == []
    with pytest.raises(NonFiniteError, match="At layer 3: two"):
        questions.settle()
    questions.settle()
    assert said == [[1, 5], [2.0]]  # what waits for numbers is not done on wrong ones
