"""A whole run on a tiny random pipeline: what it holds, how it resumes, and what it refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.study.small import ARMS, TEXTS, results, tiny_study
from tests.tiny import tiny_sd3

import sinkscope.study._complete as completing
import sinkscope.study._pipeline as painting
import sinkscope.study._record as recording
from sinkscope.attention import TopMass
from sinkscope.errors import NonFiniteError, SinkscopeError, StoreError, UsageError
from sinkscope.models import Edit
from sinkscope.study import ObservePlan, Run, Study, run
from sinkscope.study._store import Store


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loading a model, and generating, a failure of the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished run must not touch the model")

    monkeypatch.setattr(completing, "_load", refuse)
    monkeypatch.setattr(painting, "paint", refuse)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The units of every batch that is generated during the test."""
    seen: list[list[str]] = []
    paint = painting.paint

    def watch(pipe: Any, study: Study, units: Any, *rest: Any) -> list[Image.Image]:
        seen.append([unit.id for unit in units])
        return paint(pipe, study, units, *rest)

    monkeypatch.setattr(painting, "paint", watch)
    return seen


def test_what_a_run_holds(finished: Run) -> None:
    arms = ("baseline", *ARMS)
    units = [f"p{index:04d}-s0" for index in range(5)]
    scores, effects = finished.scores(), finished.effects()
    assert list(scores.columns) == "unit prompt_id prompt task seed arm metric value status note".split()
    assert len(scores) == len(units) * len(arms) * 2
    assert (scores["status"] == "ok").all()
    assert set(effects["kind"]) == {"arm-baseline", "edit-control"}
    assert (effects.loc[effects["metric"] == "rmse", "margin"] == 0.05).all()
    assert set(finished.dose()["series"]) == {"edit", "control", "edit-control"}
    assert set(finished.receipts()["arm"]) == set(ARMS)
    assert set(finished.receipts()["unit"]) == set(units)
    traces, summary = finished.traces(), finished.summary()
    assert set(traces["arm"]) == set(summary["arm"]) == {"baseline"}
    assert set(traces["unit"]) == set(summary["unit"]) == set(units)
    assert list(finished.images("sink_1")) == units
    assert all(image.size == (16, 16) for image in finished.images("sink_1").values())
    assert finished.progress() == (30, 30)
    assert not [path for path in finished.folder.rglob(".tmp-*")]


def test_the_run_says_how_closely_the_controls_matched(finished: Run) -> None:
    table = finished.matches()
    assert list(table.columns[:4]) == ["arm", "reference", "control_kind", "property"]
    pairs = table[["arm", "reference"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["sink_1", "random_1"], ["sink_3", "random_3"]]
    assert set(table["control_kind"]) == {"count"}
    counts = table[table["property"] == "count"].set_index("arm")
    assert counts["treated"].to_dict() == counts["control"].to_dict() == {"sink_1": 1.0, "sink_3": 3.0}
    assert counts["matched"].all()
    mass = table[table["property"] == "mass"]
    receipts = finished.receipts().groupby("arm")["mass_before"].mean()
    assert list(mass["treated"]) == pytest.approx(list(receipts[mass["arm"]]))
    assert list(mass["control"]) == pytest.approx(list(receipts[mass["reference"]]))


def test_the_record_says_how_it_was_made(finished: Run) -> None:
    record = finished.record
    assert finished.study == tiny_study()
    assert record["hash"] == tiny_study().hash
    assert record["resolved"]["batch"] == 2
    assert record["resolved"]["pipeline"] == "StableDiffusion3Pipeline"
    assert {"transformer", "vae", "text_encoder"} <= set(record["weights"])
    assert {"torch", "diffusers", "sinkscope"} <= set(record["versions"])
    roles = {arm["name"]: arm["role"] for arm in record["arm_info"]}
    assert roles["baseline"] == "baseline"
    assert (roles["null"], roles["sink_1"], roles["random_1"]) == ("null", "edit", "control")
    assert set(record["metric_identity"]) == {"ssim", "rmse"}


def test_the_baseline_is_the_stock_pipeline_and_the_edits_act(finished: Run, pipe: Any) -> None:
    units = finished.plan.batches()[1].units
    stock = pipe(
        [unit.prompt.text for unit in units],
        generator=[unit.generator() for unit in units],
        num_inference_steps=2,
        height=16,
        width=16,
    ).images
    for unit, image in zip(units, stock, strict=True):
        assert np.array_equal(image, finished.images("baseline")[unit.id])
        assert np.array_equal(image, finished.images("null")[unit.id])
        assert not np.array_equal(image, finished.images("sink_3")[unit.id])


def test_a_finished_run_loads_no_model_and_changes_nothing(copy: Run, no_model: None) -> None:
    before = results(copy.folder)
    run(tiny_study(), copy.folder, progress=False)
    assert results(copy.folder) == before


def test_analysis_settings_may_change_later(copy: Run, no_model: None) -> None:
    study = tiny_study(metrics=("rmse",), margins={"rmse": 10.0}, level=0.9, interval="t", name="other")
    result = run(study, copy.folder, progress=False)
    assert set(result.effects()["level"]) == {0.9} and set(result.effects()["interval"]) == {"t"}
    assert set(result.effects()["metric"]) == {"rmse"}
    assert (result.effects()["verdict"] == "equivalent").any()
    assert result.study == study


def test_a_metric_can_be_added_later(copy: Run, no_model: None) -> None:
    run(tiny_study(metrics=("rmse",)), copy.folder, progress=False)
    scores = copy.score(["ssim"], progress=False)
    assert list(dict.fromkeys(scores["metric"])) == ["rmse", "ssim"]
    assert Run.open(copy.folder).study.metrics == ("rmse", "ssim")
    with pytest.raises(UsageError, match="Unknown metric 'beauty'"):
        copy.score(["beauty"], progress=False)


def test_an_interrupted_run_continues_to_the_same_bits(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: Callable[..., Run]
) -> None:
    """Ctrl-C at the fifth write of the seventh task, then once more while merging."""
    write, calls = Store.save_task, []

    def interrupt(self: Store, task: Any, images: Any, tables: Any, how: Any) -> None:
        calls.append(task)
        if len(calls) == 7:
            write(self, task, images[:1], {}, how)
        write(self, task, images, tables, how)

    monkeypatch.setattr(Store, "save_task", interrupt)
    with pytest.raises(ValueError, match="zip"):
        again(tmp_path / "run")
    monkeypatch.undo()
    assert Run.open(tmp_path / "run").progress() == (12, 30)
    with pytest.raises(StoreError, match="not finished"):
        Run.open(tmp_path / "run").score(progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path / "run")
    again(tmp_path / "run")
    assert results(tmp_path / "run") == results(finished.folder)


def test_units_are_independent_of_batch_and_order(finished: Run, pipe: Any, tmp_path: Path) -> None:
    prompts = [{"id": f"p{index:04d}", "text": text} for index, text in reversed(list(enumerate(TEXTS)))]
    study = tiny_study(prompts=prompts, batch=3, arms={name: ARMS[name] for name in ("sink_1", "random_1")})
    other = run(study, tmp_path / "run", pipe=pipe, progress=False)
    for arm in ("baseline", "sink_1", "random_1"):
        for unit, image in finished.images(arm).items():
            difference = np.asarray(image, dtype=int) - np.asarray(other.images(arm)[unit], dtype=int)
            assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "other"])
def test_a_damaged_image_is_generated_anew(
    copy: Run, again: Callable[..., Run], painted: list[list[str]], damage: str
) -> None:
    before = results(copy.folder)
    path = copy.folder / "units" / "sink_1" / "p0002-s0.png"
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        Image.new("RGB", (16, 16)).save(path)
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(StoreError, match="p0002-s0.png .*(damaged|missing|not the image)"):
        # The cached scores are set aside, so that scoring has to read the image.
        (copy.folder / "shards" / "scores").rename(copy.folder.parent / "aside")
        copy.score(progress=False)
    again(copy.folder)
    assert painted == [["p0002-s0", "p0003-s0"]]
    assert results(copy.folder) == before


@pytest.mark.parametrize(
    "name", ["traces", "summary", "receipts", "replacements", "scores", "effects", "dose"]
)
def test_a_truncated_table_is_rebuilt_without_the_model(copy: Run, no_model: None, name: str) -> None:
    before = results(copy.folder)
    path = copy.folder / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match=f"{name}.parquet is damaged"):
        getattr(copy, name)()
    run(tiny_study(), copy.folder, progress=False)
    assert results(copy.folder) == before


def test_damaged_shards_are_made_again(
    copy: Run, again: Callable[..., Run], painted: list[list[str]]
) -> None:
    before = results(copy.folder)
    (copy.folder / "shards" / "00001" / "baseline" / "traces.parquet").write_bytes(b"PAR1")
    (copy.folder / "shards" / "00002" / "null" / "done.json").write_bytes(b'{"images"')
    for path in (copy.folder / "shards" / "scores").rglob("*.parquet"):
        path.write_bytes(b"PAR1")
    (copy.folder / "shards" / "tables.json").write_bytes(b"")
    again(copy.folder)
    assert painted == [["p0002-s0", "p0003-s0"], ["p0004-s0"]]
    assert results(copy.folder) == before


def test_a_full_disk_keeps_what_is_done(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: Callable[..., Run]
) -> None:
    replace, count = os.replace, []

    def fill(source: str, target: Any) -> None:
        count.append(target)
        if len(count) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fill)
    with pytest.raises(StoreError, match="disk is full.*same command continues"):
        again(tmp_path / "run")
    monkeypatch.undo()
    done, total = Run.open(tmp_path / "run").progress()
    assert 0 < done < total
    again(tmp_path / "run")
    assert results(tmp_path / "run") == results(finished.folder)


DIFFERENT: list[tuple[dict[str, Any], str]] = [
    ({"steps": 3}, "steps: the folder has 2, got 3"),
    ({"batch": 4}, "batch: the folder has 2, got 4"),
    ({"seeds": (0, 1)}, "seeds: the folder has"),
    ({"prompts": TEXTS[:4]}, "prompts: the folder has 5, got 4"),
    ({"prompts": (*TEXTS[:4], "another")}, "prompt 4: the folder has"),
    ({"arms": {**ARMS, "late": Edit(TopMass(keys_per_head=1), steps=(0.5, 1.0))}}, "arm 'late' is new"),
    ({"arms": {name: ARMS[name] for name in ("sink_1", "random_1")}}, "arm 'null' is missing now"),
    ({"arms": dict(reversed(ARMS.items()))}, "order of arms"),
    ({"observe": None}, "observe: the folder has"),
]


@pytest.mark.parametrize(("change", "message"), DIFFERENT, ids=[message for _, message in DIFFERENT])
def test_a_folder_of_another_study_is_refused(
    finished: Run, no_model: None, change: dict[str, Any], message: str
) -> None:
    before = results(finished.folder)
    with pytest.raises(StoreError, match=f"belongs to another study.*{message}"):
        run(tiny_study(**change), finished.folder, progress=False)
    assert results(finished.folder) == before


def test_other_weights_are_refused(copy: Run) -> None:
    (copy.folder / "units" / "null" / "p0000-s0.png").unlink()
    with pytest.raises(StoreError, match="weights of .*transformer.* are not those"):
        run(tiny_study(), copy.folder, pipe=tiny_sd3(seed=1), progress=False)


def test_other_versions_are_written_down(
    copy: Run, again: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy.folder / "units" / "null" / "p0000-s0.png").unlink()
    now = recording.versions()
    monkeypatch.setattr(recording, "versions", lambda: {**now, "torch": "9.9"})
    again(copy.folder)
    assert copy.record["continued_with"] == {"torch": f"{now['torch']} -> 9.9"}
    assert copy.record["versions"] == now


def test_a_folder_with_something_else_is_refused(tmp_path: Path, pipe: Any) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"holds thesis.tex but no study.yaml"):
        run(tiny_study(), tmp_path, pipe=pipe, progress=False)
    with pytest.raises(StoreError, match="not a run folder"):
        Run.open(tmp_path)
    (tmp_path / "study.yaml").write_text("format: [")
    with pytest.raises(StoreError, match="not readable YAML"):
        run(tiny_study(), tmp_path, pipe=pipe, progress=False)


def test_one_writer_at_a_time(copy: Run) -> None:
    with Store(copy.folder).lock(), pytest.raises(StoreError, match="Another process"):
        run(tiny_study(), copy.folder, progress=False)


BAD_HERE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"arms": {"a": Edit(TopMass(keys_per_head=1), layers=[24])}}, UsageError, "Arm 'a': Unknown layer 24"),
    (
        {"arms": {"a": Edit(TopMass(keys_per_head=1), sites="*.nothing")}},
        UsageError,
        "Arm 'a': No attention site",
    ),
    ({"observe": ObservePlan(layers=(7,))}, UsageError, "Unknown layer 7"),
    ({"metrics": ("scene",), "margins": {}}, SinkscopeError, "judges by the metadata|scene"),
    ({"prompts": [{"text": "a", "task": "all"}]}, UsageError, "task 'all'"),
    ({"prompts": "nowhere.txt"}, SinkscopeError, "nowhere.txt"),
]


@pytest.mark.parametrize(("change", "kind", "message"), BAD_HERE, ids=[message for *_, message in BAD_HERE])
def test_what_the_model_cannot_do_is_refused_before_anything_is_made(
    tmp_path: Path, pipe: Any, change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(tiny_study(**change), tmp_path / "run", pipe=pipe, progress=False)
    assert not (tmp_path / "run").exists()


BAD_LATER: list[tuple[Edit, str]] = [
    (Edit(TopMass(keys_per_head=9999)), "9999"),
    (Edit(TopMass(keys_per_head=1), heads=[9]), "head 9"),
    (Edit(TopMass(keys_per_head=1), queries="registers"), "registers"),
]


@pytest.mark.parametrize(("edit", "message"), BAD_LATER, ids=[message for _, message in BAD_LATER])
def test_what_only_a_call_can_tell_loses_nothing(tmp_path: Path, pipe: Any, edit: Edit, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run(tiny_study(arms={"a": edit}), tmp_path / "run", pipe=pipe, progress=False)
    assert "In arm 'a', batch 0. 2 images are kept." in caught.value.__notes__[0]
    assert Run.open(tmp_path / "run").progress() == (2, 10)


@pytest.mark.parametrize("size", [17, 4096])
def test_a_size_the_model_was_not_made_for(tmp_path: Path, pipe: Any, size: int) -> None:
    with pytest.raises(UsageError, match=f"refused its settings.*{size}"):
        run(tiny_study(height=size, width=size), tmp_path / "run", pipe=pipe, progress=False)


def test_an_image_of_nan_is_an_error(tmp_path: Path) -> None:
    pipe = tiny_sd3()
    pipe.vae.decoder.conv_out.bias.data += torch.nan
    with pytest.raises(NonFiniteError, match="p0000-s0.* NaN or infinity"):
        run(tiny_study(), tmp_path / "run", pipe=pipe, progress=False)


def test_a_pipeline_that_takes_no_prompt(tmp_path: Path, pipe: Any) -> None:
    with pytest.raises(UsageError, match="takes no argument 'prompt'"):
        run(tiny_study(), tmp_path / "run", pipe=pipe.transformer, progress=False)


def test_only_some_units_and_other_arms_are_observed(tmp_path: Path, pipe: Any) -> None:
    plan = ObservePlan(layers=(1,), units=3, keys_per_head=2, arms=("baseline", "sink_1"))
    study = tiny_study(observe=plan, arms={"sink_1": ARMS["sink_1"]}, metrics=("rmse",))
    traces = run(study, tmp_path / "run", pipe=pipe, progress=False).traces()
    assert set(traces["unit"]) == {"p0000-s0", "p0001-s0", "p0002-s0"}
    assert set(traces["arm"]) == {"baseline", "sink_1"}
    assert set(traces["layer"]) == {1}
    assert set(traces["rank"]) == {0, 1}


def test_the_keys_that_took_over_are_recorded_where_asked_for(tmp_path: Path, pipe: Any) -> None:
    arms = {name: ARMS[name] for name in ("sink_1", "random_1")}
    study = tiny_study(observe=ObservePlan(units=2, replacements=2), arms=arms, metrics=("rmse",))
    found = run(study, tmp_path / "run", pipe=pipe, progress=False).replacements()
    assert set(found["arm"]) == {"sink_1"}
    assert set(found["unit"]) == {"p0000-s0", "p0001-s0"}
    assert (found["gain"] > 0).all()
    assert set(found["rank"]) == {0, 1}


def test_nan_in_the_attention_is_an_error_that_names_it(tmp_path: Path) -> None:
    pipe = tiny_sd3()
    pipe.transformer.transformer_blocks[1].attn.to_q.weight.data[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="transformer_blocks.1.attn") as caught:
        run(tiny_study(), tmp_path / "run", pipe=pipe, progress=False)
    assert "In arm 'baseline', batch 0" in caught.value.__notes__[0]


def test_a_study_without_arms_or_metrics(tmp_path: Path, pipe: Any) -> None:
    study = tiny_study(arms={}, metrics=(), margins={}, observe=None, prompts=TEXTS[:1])
    result = run(study, tmp_path / "run", pipe=pipe, progress=False)
    assert len(result.images("baseline")) == 1
    assert all(table().empty for table in (result.scores, result.effects, result.traces, result.receipts))
    assert result.report().stat().st_size > 5000
    with pytest.raises(UsageError, match="Unknown arm 'sink_1'"):
        result.images("sink_1")
