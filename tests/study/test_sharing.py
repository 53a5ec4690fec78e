"""Work that arms share: null arms are compared, late arms start from the baseline, and no bit changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.study.small import SINK, TEXTS, results, tiny_study
from tests.tiny import tiny_sdxl

import sinkscope.models._compare as comparing
import sinkscope.study._run as running
import sinkscope.study._sharing as sharing_module
from sinkscope.attention import Frozen, TopMass
from sinkscope.errors import UsageError
from sinkscope.models import Edit
from sinkscope.study import Arm, ObservePlan, Run, Study, run
from sinkscope.study._sharing import Sharing, sharing
from sinkscope.study._trajectory import Trajectory, recording, replaying

LATE = Edit(TopMass(keys_per_head=2), steps=(0.5, 1.0))
QUICK: dict[str, Any] = {"metrics": (), "margins": {}}
FLOW = ("UniPCMultistepScheduler", "FlowMatchHeunDiscreteScheduler")


def images(result: Run, *arms: str) -> dict[tuple[str, str], bytes]:
    return {(arm, unit): image.tobytes() for arm in arms for unit, image in result.images(arm).items()}


class Counter:
    """Counts forward passes that really run: the replay goes by the modules inside."""

    def __init__(self, root: torch.nn.Module) -> None:
        self.count = 0
        inner = next(part for part in root.modules() if isinstance(part, torch.nn.Linear))
        self.handle = inner.register_forward_pre_hook(self.add)

    def add(self, *_: Any) -> None:
        self.count += 1


@pytest.fixture
def unshared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switch sharing off for what runs inside."""

    def off(*arguments: Any, **options: Any) -> Run:
        with monkeypatch.context() as patch:
            patch.setattr(sharing_module, "sharing", lambda *_: Sharing())
            return run(*arguments, progress=False, **options)

    return off


# ---- null arms


def test_a_null_arm_is_compared_and_equals_the_generated_one(
    finished: Run, pipe: Any, tmp_path: Path
) -> None:
    assert finished.record["shared"]["images"] == {"null": {"of": "baseline", "equal": 5, "generated": 0}}
    full = run(tiny_study(null_arms="full"), tmp_path / "full", pipe=pipe, progress=False)
    assert full.record["shared"]["images"] == {}
    ours, theirs = results(finished.folder), results(full.folder)
    differ = {name for name in ours if ours[name] != theirs[name]}
    # Only the record and the marks of how a task came about differ: every image and table is the same.
    assert {name.rsplit("/")[-1] for name in differ} == {"study.yaml", "done.json"}
    assert all("/null/" in name for name in differ if name != "study.yaml")
    assert ours.keys() == theirs.keys()


def test_a_null_arm_saves_a_generation(pipe: Any, tmp_path: Path) -> None:
    counter = Counter(pipe.transformer)
    arms = {"null": SINK.control("null")}
    run(tiny_study(arms=arms, prompts=TEXTS[:2], **QUICK), tmp_path / "a", pipe=pipe, progress=False)
    counter.handle.remove()
    assert counter.count == 2


def test_a_null_arm_that_differs_is_generated(
    finished: Run, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def same(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.tensor(len(calls) < 3 and torch.equal(first, second))

    monkeypatch.setattr(comparing, "same_bits", same)
    result = run(tiny_study(), tmp_path / "run", pipe=pipe, progress=False)
    counts = result.record["shared"]["images"]["null"]
    assert counts == {"of": "baseline", "equal": 0, "generated": 5}
    assert images(result, "null") == images(finished, "null")
    assert result.receipts().equals(finished.receipts())


def test_bits_and_layout_count() -> None:
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert comparing.same_bits(x, x.clone())
    assert not comparing.same_bits(x, x.t().contiguous().t())
    assert not comparing.same_bits(x, torch.where(x == 0, -0.0, x))
    assert not comparing.same_bits(x, x.double())
    assert not comparing.same_bits(x * torch.nan, x * torch.nan)
    assert not comparing.same_bits(x, x + 1e-6)


def test_an_edit_is_seen_by_the_comparison(pipe: Any) -> None:
    with comparing.compare(pipe, [SINK]) as found:
        pipe("a cat", num_inference_steps=1, height=16, width=16)
    assert not found.same


def test_null_arms_has_two_settings() -> None:
    with pytest.raises(UsageError, match="Unknown null_arms 'never'.*compare, full"):
        tiny_study(null_arms="never")
    assert "null_arms" not in tiny_study().to_dict()
    assert Study.from_dict(tiny_study(null_arms="full").to_dict()).null_arms == "full"


def test_null_arms_of_a_split_study_take_that_way_too(pipe: Any) -> None:
    study = tiny_study(arms={"null": SINK.control("null")}, split=True)
    assert not sharing(study, None, pipe).null
    assert Study.from_dict(study.to_dict()) == study and "split" not in tiny_study().to_dict()
    with pytest.raises(UsageError, match="split='yes': expected true or false"):
        tiny_study(split="yes")


# ---- late arms


def test_which_arms_share(pipe: Any) -> None:
    arms = {
        "null": SINK.control("null"),
        "late": LATE,
        "listed": Edit(TopMass(keys_per_head=1), steps=[1, 3]),
        "frozen": Edit(Frozen(TopMass(keys_per_head=1), step=0), steps=(0.5, 1.0)),
        "whole": SINK,
        "repeat": None,
        "weak": Arm(guidance=2.0),
        "weak_late": Arm(LATE, guidance=2.0, against="weak"),
        "seen": Edit(TopMass(keys_per_head=3), steps=(0.5, 1.0)),
    }
    study = tiny_study(arms=arms, steps=4)
    found = sharing(study, {"arms": ["baseline", "seen"]}, pipe)
    assert found == Sharing(
        {"null": "baseline"}, {"late": "baseline", "listed": "baseline", "weak_late": "weak"}
    )
    assert not sharing(tiny_study(arms=arms, steps=4, null_arms="full"), None, pipe).null


def test_a_model_with_a_feature_cache_shares_no_steps(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sharing(tiny_study(arms={"late": LATE}, steps=4), None, pipe).late
    monkeypatch.setattr(type(pipe.transformer), "is_cache_enabled", True, raising=False)
    assert not sharing(tiny_study(arms={"late": LATE}, steps=4), None, pipe).late


@pytest.mark.parametrize("scheduler", [None, *FLOW])
def test_a_late_arm_equals_a_whole_run(
    pipe: Any, tmp_path: Path, unshared: Any, scheduler: str | None
) -> None:
    own = {} if scheduler is None else {"scheduler": scheduler}
    arms = {"base": Arm(**own, seed_shift=9), "late": Arm(LATE, **own, seed_shift=9, against="base")}
    study = tiny_study(arms=arms, steps=4, prompts=TEXTS[:2], observe=None, **QUICK)
    counter = Counter(pipe.transformer)
    ours = run(study, tmp_path / "ours", pipe=pipe, progress=False)
    shared, counter.count = counter.count, 0
    theirs = unshared(study, tmp_path / "theirs", pipe=pipe)
    counter.handle.remove()
    assert ours.record["shared"]["first_steps"] == {"late": "base"}
    assert shared < counter.count
    assert images(ours, "baseline", "base", "late") == images(theirs, "baseline", "base", "late")
    assert images(ours, "base") != images(ours, "late")
    assert ours.receipts().equals(theirs.receipts())


@pytest.mark.parametrize("model", ["shapes", "shapes-unet"])
def test_late_arms_of_the_embedded_models(model: str, tmp_path: Path, unshared: Any) -> None:
    kind = {} if model == "shapes" else {"kind": "self"}
    late = Edit(TopMass(keys_per_head=1), steps=(0.5, 1.0), **kind)
    study = Study(model=model, arms={"late": late, "random": late.control("count")}, n_prompts=1, steps=3,
                  metrics=(), observe=None)  # fmt: skip
    ours = run(study, tmp_path / "ours", progress=False)
    theirs = unshared(study, tmp_path / "theirs")
    assert set(ours.record["shared"]["first_steps"]) == {"late", "random"}
    assert images(ours, "late", "random") == images(theirs, "late", "random")
    assert images(ours, "late") != images(ours, "random")
    assert ours.receipts().equals(theirs.receipts())


def test_a_sampler_with_memory_on_a_model_that_predicts_noise(tmp_path: Path, unshared: Any) -> None:
    pipe = tiny_sdxl()
    dpm = {"scheduler": "DPMSolverMultistepScheduler"}
    late = Edit(TopMass(keys_per_head=1), steps=(0.5, 1.0), kind="cross")
    arms = {"base": Arm(**dpm, seed_shift=9), "late": Arm(late, **dpm, seed_shift=9, against="base")}
    study = tiny_study(arms=arms, steps=4, prompts=TEXTS[:2], observe=None, **QUICK, height=32, width=32)
    ours = run(study, tmp_path / "ours", pipe=pipe, progress=False)
    theirs = unshared(study, tmp_path / "theirs", pipe=pipe)
    assert images(ours, "base", "late") == images(theirs, "base", "late")


def test_other_inputs_are_not_answered_from_memory(pipe: Any) -> None:
    def paint(seed: int) -> np.ndarray[Any, Any]:
        noise = torch.Generator().manual_seed(seed)
        made = pipe("a cat", generator=noise, num_inference_steps=4, height=16, width=16, output_type="np")
        return np.asarray(made.images[0])

    with recording(pipe, [[LATE]]) as kept:
        first = paint(0)
    assert len(kept.evaluations) == 2
    assert kept.nbytes > 0
    with replaying(pipe, kept, [LATE]):
        again = paint(0)
    assert kept.replayed == 2
    assert np.array_equal(first, again)
    with replaying(pipe, kept, [LATE]):
        other = paint(1)
    assert kept.replayed == 2
    assert np.array_equal(other, paint(1))
    with replaying(pipe, Trajectory(), [LATE]):
        assert np.array_equal(first, paint(0))


def test_an_interrupted_run_that_shares_ends_with_the_same_bytes(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(arms={"late": LATE, "null": SINK.control("null")}, steps=4, prompts=TEXTS[:3], **QUICK)
    whole = run(study, tmp_path / "whole", pipe=pipe, progress=False)
    for cut in (1, 4):
        save, count = running.Store.save_task, [0]

        def stop(self: Any, *arguments: Any, save: Any = save, count: Any = count, cut: int = cut) -> None:
            count[0] += 1
            if count[0] > cut:
                raise KeyboardInterrupt
            save(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(running.Store, "save_task", stop)
            with pytest.raises(KeyboardInterrupt):
                run(study, tmp_path / str(cut), pipe=pipe, progress=False)
        run(study, tmp_path / str(cut), pipe=pipe, progress=False)
        assert results(tmp_path / str(cut)) == results(whole.folder)


def test_an_arm_that_is_watched_runs_whole(pipe: Any, tmp_path: Path) -> None:
    watch = ObservePlan(arms=("baseline", "late"))
    study = tiny_study(arms={"late": LATE}, steps=4, prompts=TEXTS[:2], observe=watch, **QUICK)
    result = run(study, tmp_path / "run", pipe=pipe, progress=False)
    assert result.record["shared"]["first_steps"] == {}
    traces = result.traces()
    assert set(traces.loc[traces["arm"] == "late", "step"]) == {0, 1, 2, 3}
