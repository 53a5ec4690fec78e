"""The presets of models that read: their plans, and running both variants together."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sinkscope import _commands, cli, report
from sinkscope.errors import UsageError
from sinkscope.recipes import preset
from sinkscope.report import _beside as beside
from sinkscope.report._data import RunData
from sinkscope.study import Study, resolve_prompts

BOTH = {"language/sinks": ("autoregressive", "masked_diffusion"), "vision/registers": ("plain", "registers")}


@pytest.mark.parametrize("name", BOTH)
def test_both_variants_ask_the_same_of_two_models(name: str, tmp_path: Path) -> None:
    entry = preset(name)
    assert tuple(entry.variants) == BOTH[name] and entry.together
    demos = {variant: entry.study(variant) for variant in entry.variants}
    one, other = demos.values()
    assert one.model != other.model and one.name.endswith(":demo")
    assert [p.text for p in resolve_prompts(one)] == [p.text for p in resolve_prompts(other)]
    shared = [arm for arm in one.arm_names if arm in other.arm_names]
    assert {f"{kind}_{k}" for kind in ("sink", "random", "mass") for k in (1, 5, 10)} <= set(shared)
    for arm in shared:
        assert one.edits(arm) == other.edits(arm)
    assert (one.metrics, one.margins, one.metric_options) == (
        other.metrics,
        other.margins,
        other.metric_options,
    )
    full = entry.study(BOTH[name][1], scale="full")
    assert len(resolve_prompts(full)) > 3 * len(resolve_prompts(other))
    for study in (*demos.values(), full):
        study.to_yaml(tmp_path / "study.yaml")
        assert Study.from_yaml(tmp_path / "study.yaml") == study


def test_words_that_causal_queries_may_lose_are_not_scored() -> None:
    study = preset("language/sinks").study("autoregressive")
    budgets = [study.edits(f"sink_{k}")[0].select.keys_per_head for k in (1, 5, 10)]
    assert {options["skip"] for options in study.metric_options.values()} == {max(budgets)}
    assert set(study.metric_options) == set(study.metrics)


def test_a_preset_refuses_models_it_is_not_made_for() -> None:
    with pytest.raises(
        UsageError, match="language/sinks asks about an embedded language model, such as 'shapes-lm'"
    ):
        preset("language/sinks").study("autoregressive", model="shapes-vit")
    with pytest.raises(
        UsageError, match="paper/table6 asks about a model with joint attention or a model with a"
    ):
        preset("paper/table6").study(model="shapes-lm")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Study, Path]]:
    found: list[tuple[Study, Path]] = []

    def note(study: Study, arguments: Namespace, *, pipe: Any) -> int:
        found.append((study, Path(arguments.out or "runs")))
        return 0

    def page(folders: dict[str, Path], out: Path) -> Path:
        assert [Path(folder) for folder in folders.values()] == [where for _, where in found]
        return Path(out)

    monkeypatch.setattr(_commands, "_run_study", note)
    monkeypatch.setattr(report, "build_beside", page)
    return found


def test_run_runs_both_and_sets_them_beside_each_other(
    asked: list[tuple[Study, Path]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["run", "language/sinks", "--out", str(tmp_path), "--n-prompts", "6"]) == 0
    assert [(study.model, len(study.prompts), where.name) for study, where in asked] == [
        ("shapes-lm", 6, "autoregressive"),
        ("shapes-mdlm", 6, "masked_diffusion"),
    ]
    assert f"beside each other: {tmp_path / 'beside.html'}" in capsys.readouterr().out
    assert cli.main(["run", "vision/registers", "--variant", "registers"]) == 0
    assert len(asked) == 3 and asked[-1][0].model == "shapes-vit-registers"


def test_one_model_alone_needs_a_variant(
    asked: list[tuple[Study, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "language/sinks", "--model", "shapes-lm"]) == 2
    said = capsys.readouterr().err
    assert "sets 2 models beside each other" in said and "autoregressive, masked_diffusion" in said
    assert not asked


def test_even_attention_of_causal_and_open_models() -> None:
    top = pd.DataFrame({"key": [0, 1, 3], "mass": [0.5, 0.25, 0.1], "times_uniform": [2.0, 1.0, 0.4]})
    open_side = beside.Side("open", RunData(Path(), {}, {}))
    assert beside.even(open_side, top).tolist() == [0.25, 0.25, 0.25]
    causal = beside.Side("causal", RunData(Path(), {"resolved": {"causal": True}}, {}))
    by_hand = [(1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, (1 / 2 + 1 / 3 + 1 / 4) / 4, 1 / 16]
    assert beside.even(causal, top).tolist() == pytest.approx(by_hand)
