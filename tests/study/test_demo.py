"""The demo study as issue and page describe it, and the arms of a model nobody wrote a study for."""

from __future__ import annotations

from collections import Counter

import pytest

from sinkscope.errors import NoMatchError
from sinkscope.models import Site
from sinkscope.study import Study, contrasts, ladders, resolve_prompts
from sinkscope.study._default_arms import default_arms
from sinkscope.study.demo import demo


def test_the_demo_is_stratified_and_controlled() -> None:
    study = demo()
    assert study.arm_names == (
        "baseline", "null", "sink_1", "random_1", "sink_5", "random_5", "sink_10", "random_10", "value_5",
    )  # fmt: skip
    prompts = resolve_prompts(study)
    assert len(prompts) >= 96
    counts = Counter(prompt.task for prompt in prompts)
    assert len(counts) == 6
    # The grammar holds fewer single objects than a sixth of the prompts; the others share the rest.
    assert min(counts.values()) >= 8
    assert max(counts.values()) <= 18
    assert {"scene", "clip_t", "ssim", "rmse"} <= set(study.metrics) == set(study.margins)
    pairs = [(c.arm, c.reference) for c in contrasts(study) if c.kind == "edit-control"]
    assert pairs == [("sink_1", "random_1"), ("sink_5", "random_5"), ("sink_10", "random_10")]
    (ladder,) = ladders(study)
    assert list(ladder[0].values()) == [1, 5, 10]
    assert Study.from_dict(study.to_dict()) == study


def test_the_quick_demo_keeps_the_question() -> None:
    study = demo(quick=True)
    assert len(resolve_prompts(study)) == 24
    assert study.steps == 10
    assert {"null", "sink_5", "random_5"} <= set(study.arm_names)


def site(kind: str, layer: int | None = 0) -> Site:
    return Site(f"blocks.0.{kind}", layer, kind, 2, ())  # type: ignore[arg-type]


def test_default_arms_follow_the_kinds_of_sites() -> None:
    assert list(default_arms([site("joint"), site("self")])) == ["null", "sink_1", "random_1"]
    arms = default_arms([site("cross"), site("self")], budgets=(1, 2), layers=[0])
    assert list(arms)[:5] == ["self_null", "self_sink_1", "self_random_1", "self_sink_2", "self_random_2"]
    assert {edit.kind for edit in arms.values()} == {"self", "cross"}
    assert {edit.layers for edit in arms.values()} == {(0,)}
    Study(arms=arms, metrics=())
    with pytest.raises(NoMatchError, match="nothing to edit"):
        default_arms([site("self", None)])
