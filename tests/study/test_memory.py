"""Batches that do not fit into memory: halved, in every arm, with the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.study.small import SINK, results, tiny_study
from tests.tiny import tiny_sd3

import sinkscope.study._pipeline as painting
from sinkscope.errors import SinkscopeError
from sinkscope.study import Run, Study, run
from sinkscope.study._memory import is_out_of_memory, probe
from sinkscope.study._store import Store

ARMS = {"null": SINK.control("null"), "sink": SINK}
ERRORS: list[Callable[[], BaseException]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    lambda: RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
    ),
    lambda: MemoryError(),
]


def small(**changes: Any) -> Study:
    return tiny_study(**{"arms": ARMS, "batch": 4, "metrics": (), "margins": {}, "observe": None, **changes})


class Limit:
    """Fails where more than `units` are generated at once with an edit on."""

    def __init__(self, units: int, error: Callable[[], BaseException], arm: str = "sink") -> None:
        self.units, self.error, self.arm, self.paint = units, error, arm, painting.paint
        self.sizes: list[tuple[str, int]] = []

    def __call__(self, pipe: Any, study: Study, units: Any, arm: str) -> Any:
        if arm == self.arm and len(units) > self.units:
            raise self.error()
        self.sizes.append((arm, len(units)))
        return self.paint(pipe, study, units, arm)


@pytest.fixture(scope="module")
def whole(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(small(), tmp_path_factory.mktemp("whole") / "run", pipe=pipe, progress=False)


def test_the_batch_is_halved_in_every_arm_and_the_images_stay(
    whole: Run, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    limit = Limit(2, ERRORS[1])
    monkeypatch.setattr(painting, "paint", limit)
    result = run(small(), tmp_path / "run", pipe=pipe)
    # The baseline went through whole, then everything again in halves; later batches start with halves.
    assert limit.sizes == [
        ("baseline", 4),
        *[("baseline", 2)] * 2,
        *[("sink", 2)] * 2,
        ("baseline", 1),
        ("sink", 1),
    ]
    said = capsys.readouterr().err
    assert "note: out of memory in arm 'sink' with 4 units at once; batch 0 starts again with 2" in said
    assert result.record["shared"]["units_at_once"] == {"00000": 2}
    assert result.record["resolved"]["batch"] == 4
    ours, theirs = results(result.folder), results(whole.folder)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name.endswith(".png"))
    by = ["arm", "unit", "branch", "step", "layer", "head"]
    a, b = (each.receipts().sort_values(by, ignore_index=True) for each in (result, whole))
    assert a[by].equals(b[by])
    assert (a["mass_before"] - b["mass_before"]).abs().max() < 1e-6


def test_a_run_cut_off_after_halving_goes_on_in_halves(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(painting, "paint", Limit(2, ERRORS[0]))
        whole = run(small(), tmp_path / "whole", pipe=pipe, progress=False)
    save, count = Store.save_task, [0]

    def stop(self: Any, *arguments: Any) -> None:
        count[0] += 1
        if count[0] == 4:  # baseline and null at four, then the baseline in halves
            raise KeyboardInterrupt
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(painting, "paint", Limit(2, ERRORS[0]))
        patch.setattr(Store, "save_task", stop)
        with pytest.raises(KeyboardInterrupt):
            run(small(), tmp_path / "run", pipe=pipe, progress=False)
    limit = Limit(4, ERRORS[0])
    monkeypatch.setattr(painting, "paint", limit)
    run(small(), tmp_path / "run", pipe=pipe, progress=False)
    assert max(size for _, size in limit.sizes) == 2
    assert results(tmp_path / "run") == results(whole.folder)


def test_one_unit_that_does_not_fit_is_an_error(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "paint", Limit(0, ERRORS[0], arm="baseline"))
    said = "Out of memory in arm 'baseline' with one unit at a time.* 0 images are kept"
    with pytest.raises(SinkscopeError, match=said):
        run(small(batch=2), tmp_path / "run", pipe=pipe, progress=False)


def test_other_errors_are_not_taken_for_it() -> None:
    assert all(is_out_of_memory(error()) for error in ERRORS)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("base", "each", "free", "units", "expected"),
    [
        (100, 10, 1000, 500, 64),  # 0.8 x 1000 - 110 = 690: 70 units, at most 64
        (100, 10, 300, 500, 8),  # 0.8 x 300 - 110 = 130: 14 units, a power of two
        (100, 10, 300, 5, 4),
        (100, 10, 120, 500, 1),
        (900, 10, 1000, 500, 1),
        (100, 0, 1000, 500, 64),
    ],
)
def test_the_probe_fills_four_fifths_of_what_is_free(
    base: int, each: int, free: int, units: int, expected: int
) -> None:
    asked: list[int] = []

    def peak(count: int) -> int:
        asked.append(count)
        return base + count * each

    assert probe(peak, lambda: free, units=units) == expected
    assert set(asked) <= {1, 2}


def test_a_probe_of_two_that_fails_means_one() -> None:
    def peak(count: int) -> int:
        if count > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 10

    assert probe(peak, lambda: 100, units=8) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_filled_and_the_text_encoders_leave_it(tmp_path: Path) -> None:
    pipe = tiny_sd3().to("cuda")
    where: list[bool] = []
    pipe.transformer.register_forward_pre_hook(lambda *_: where.append(pipe.text_encoder is None))
    result = run(small(batch=None), tmp_path / "run", pipe=pipe, progress=False)
    assert result.record["resolved"]["batch"] == 4  # five units: the largest power of two below
    assert result.record["resolved"]["device"] == "cuda"
    assert where[-1]
    assert pipe.text_encoder.device.type == "cuda"
    assert all(image.size == (16, 16) for image in result.images("sink").values())
