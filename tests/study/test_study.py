"""A study as data: round trips, its hash, and one clear error for everything it cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.study.small import ARMS, SINK, SINKS, tiny_study

from sinkscope.attention import Mask, TopMass
from sinkscope.errors import MissingWeightsError, UsageError
from sinkscope.models import Edit
from sinkscope.prompts import PromptRecord
from sinkscope.study import ObservePlan, Study, contrasts, ladders


def test_dict_and_yaml_round_trip(tmp_path: Path) -> None:
    record = PromptRecord(id="a.b", text="a cat", task="colors", metadata={"include": [{"class": "cat"}]})
    late = Edit(TopMass(keys_per_head=2), layers=[0, 2], steps=(0.5, 1.0), branch="cond")
    study = tiny_study(
        prompts=[record],
        arms={**ARMS, "both": [SINK, late], "twice": None},
        observe=ObservePlan(layers=[1], units=1, arms=("baseline", "sink_1")),
        seeds=[3, 4],
        guidance=4.5,
    )
    assert Study.from_dict(study.to_dict()) == study
    study.to_yaml(tmp_path / "study.yaml")
    again = Study.from_yaml(tmp_path / "study.yaml")
    assert again == study
    assert again.hash == study.hash
    assert again.edits("both") == (SINK, late)
    assert again.arm_names[0] == "baseline"


def test_control_shorthand_in_a_file(tmp_path: Path) -> None:
    sink = {"select": {"TopMass": {"keys_per_head": 1}}, "action": {"Mask": {}}}
    data = {
        "arms": {"sink": sink, "random": {"control": "count", "of": "sink", "seed": 2}},
        "metrics": ["ssim"],
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    study = Study.from_yaml(tmp_path / "s.yaml")
    assert study.edits("random") == (SINK.control("count", seed=2),)
    with pytest.raises(UsageError, match="Unknown arm that the control arm 'random' is a control of, 'sink'"):
        Study.from_dict({"arms": {"random": {"control": "count", "of": "sink"}}})


@pytest.mark.parametrize(
    "kind", ["count", "segment", "mass", "persistence", "bottom", "next", "query", "null"]
)
def test_every_kind_of_control_has_a_shorthand(tmp_path: Path, kind: str) -> None:
    sink = {"select": {"TopMass": {"keys_per_head": 1}}}
    data = {
        "arms": {"sink": sink, "control": {"control": kind, "of": "sink", "seed": 2}},
        "metrics": ["ssim"],
    }
    study = Study.from_dict(yaml.safe_load(yaml.safe_dump(data)))
    assert study.edits("control") == (SINK.control(kind, seed=2),)
    again = Study.from_dict(yaml.safe_load(yaml.safe_dump(study.to_dict())))
    assert again == study and again.hash == study.hash
    declared = [(c.arm, c.reference) for c in contrasts(study) if c.kind == "edit-control"]
    assert declared == ([] if kind == "null" else [("sink", "control")])


def test_the_hash_names_what_can_change_an_image() -> None:
    study = tiny_study()
    same = tiny_study(metrics=("ssim",), margins={}, level=0.9, draws=500, interval="t", name="other")
    assert same.hash == study.hash
    for change in (
        {"steps": 3},
        {"seeds": (1,)},
        {"guidance": 2.0},
        {"observe": None},
        {"arms": {"sink": SINK}},
    ):
        assert tiny_study(**change).hash != study.hash


def test_contrasts_pair_an_edit_with_its_control_by_hash() -> None:
    found = [(c.arm, c.reference, c.kind) for c in contrasts(tiny_study())]
    assert [pair[0] for pair in found if pair[1] == "baseline"] == list(ARMS)
    pairs = [pair[:2] for pair in found if pair[2] == "edit-control"]
    assert pairs == [("sink_1", "random_1"), ("sink_3", "random_3")]


def test_ladders_hold_arms_that_differ_in_their_budget_alone() -> None:
    arms = {**ARMS, "late_5": Edit(TopMass(keys_per_head=5), steps=(0.5, 1.0))}
    (found,) = ladders(tiny_study(arms=arms))
    assert found == ({"sink_1": 1.0, "sink_3": 3.0}, {"random_1": 1.0, "random_3": 3.0})
    (bare,) = ladders(tiny_study(arms={"sink_1": SINK, "sink_3": SINKS, "random_1": SINK.control("count")}))
    assert bare[1] is None


BAD: list[tuple[dict[str, Any], str]] = [
    ({"metrics": ("beauty",)}, "Unknown metric 'beauty'.*ssim"),
    ({"metrics": ("ssim", "ssim"), "margins": {}}, "more than once"),
    ({"margins": {"lpips": 0.1}}, "metric in margins"),
    ({"margins": {"rmse": 0.0}}, "margin of rmse=0.0"),
    ({"prompts": ()}, "no prompts"),
    ({"prompts": ("a cat", "  ")}, "Prompt 'p0001' is empty"),
    ({"prompts": ("a cat", "a  cat")}, "same text"),
    ({"prompts": [{"id": "x", "text": "a"}, {"id": "x", "text": "b"}]}, "share the id 'x'"),
    ({"prompts": [{"id": "x"}]}, "has no text"),
    ({"prompts": [{"id": "a/b", "text": "x"}]}, "cannot name a file"),
    ({"prompts": [{"text": "a", "colour": "b"}]}, "Unknown field of prompt 0 'colour'"),
    ({"prompts": 3}, "expected a list"),
    ({"arms": {"random": SINK.control("count")}}, "'count' control of edit .* which no arm"),
    ({"arms": {"a": SINK, "b": SINK}}, "'a' and 'b' are the same edit"),
    ({"arms": {"baseline": SINK}}, "arm without edits"),
    ({"arms": {"A": SINK, "a": SINKS}}, "more than once"),
    ({"arms": {"a/b": SINK}}, "cannot be a folder"),
    ({"arms": {"a": 3}}, "expected an Edit"),
    (
        {"arms": {"a": Edit(TopMass(keys_per_head=1), Mask(), steps=[1, 7])}},
        "edits step 7, but the study has 2",
    ),
    ({"arms": [SINK]}, "expected a mapping"),
    ({"seeds": ()}, "seeds is empty"),
    ({"seeds": (1, 1)}, "more than once"),
    ({"seeds": ("a",)}, "expected a whole number"),
    ({"steps": 0}, "steps=0: expected a whole number from 1"),
    ({"batch": 0}, "batch=0"),
    ({"level": 1.0}, "level=1.0"),
    ({"guidance": float("nan")}, "guidance=nan"),
    ({"draws": 3}, "draws=3"),
    ({"interval": "wald"}, "Unknown interval 'wald'.*auto, combined, bca"),
    ({"model": ""}, "expected a text"),
    ({"observe": ObservePlan(arms=("sink",))}, "Unknown arm in observe.arms 'sink'"),
    ({"observe": {"layer": 1}}, "Unknown field of observe 'layer'"),
    ({"observe": {"keys_per_head": 0}}, "keys_per_head=0"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_what_a_study_cannot_say(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_study(**change)


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(UsageError, match="Unknown field of a study 'stpes'.*Did you mean 'steps'"):
        Study.from_dict({"stpes": 3})
    with pytest.raises(UsageError, match="Unknown arm 'sin_1'.*baseline.*Did you mean 'sink_1'"):
        tiny_study().edits("sin_1")
    with pytest.raises(UsageError, match="Unknown field of the control arm"):
        Study.from_dict({"arms": {"a": SINK.to_dict(), "b": {"control": "count", "of": "a", "sed": 1}}})


def test_a_study_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        Study.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(UsageError, match="not readable YAML"):
        Study.from_yaml(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(UsageError, match="expected a mapping"):
        Study.from_yaml(tmp_path / "list.yaml")


def test_options_of_a_metric_travel_with_the_study_and_do_not_change_its_hash() -> None:
    plain = Study(metrics=["clip_t"])
    chosen = Study(metrics=["clip_t"], metric_options={"clip_t": {"checkpoint": "some/clip"}})
    assert Study.from_dict(chosen.to_dict()) == chosen
    assert chosen.hash == plain.hash
    with pytest.raises(UsageError, match="metric_options"):
        Study(metrics=["ssim"], metric_options={"clip_t": {"batch": 2}})


def test_the_embedded_clip_does_not_judge_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from sinkscope.study._score import check_metrics, settings

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    other = "stabilityai/stable-diffusion-3-medium-diffusers"
    with pytest.raises(MissingWeightsError, match="hf download openai/clip-vit-base-patch32"):
        check_metrics(["clip_t"], [], options={}, model=other)
    assert settings(["clip_t"], {"clip_t": {"checkpoint": "mine"}}, model=other, device="cuda") == {
        "clip_t": {"checkpoint": "mine", "device": "cuda"}
    }
    assert settings(["clip_t", "ssim"], {}, model="shapes") == {}
    with pytest.raises(UsageError, match="Its options: checkpoint"):
        check_metrics(["clip_t"], [], options={"clip_t": {"size": 3}}, model="shapes")
