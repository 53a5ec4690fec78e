"""The bench with planted truth: right with the real instrument, wrong with a broken one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sinkscope import cli
from sinkscope.attention import Mask, TopMass
from sinkscope.errors import UsageError
from sinkscope.models import observe, sites
from sinkscope.recipes.planted import CASES, Plant, bench, build, tally
from sinkscope.recipes.planted._plant import HEADS, IMAGE_KEYS, KEYS, draw_keys, everywhere, masses, only
from sinkscope.stats import _effects as effects_module

UNSEEN = 100
"""A seed that the table of docs/planted.md does not hold."""


def wrong(table: pd.DataFrame) -> list[str]:
    return table.loc[~table["correct"], "question"].tolist()


QUICK = ("heavy_irrelevant", "light_necessary", "heavy_necessary", "breaks_at_k", "moving", "only_mass")
"""`sinkscope planted` runs the others too."""


@pytest.mark.parametrize("case", QUICK)
def test_the_instrument_is_right_about_a_seed_it_was_not_shown(case: str) -> None:
    table = bench([UNSEEN], [case])
    assert len(table) >= 9 and set(QUICK) < set(CASES)
    assert not wrong(table), table[~table["correct"]].to_string()


# ---- a broken instrument is found out


def test_an_edit_that_does_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mask, "apply", lambda self, call, chosen, random: call)
    assert "sink_h1 - baseline (scene)" in wrong(bench([0], ["one_head"]))


def test_a_selector_that_takes_the_wrong_keys_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = TopMass.choose
    monkeypatch.setattr(TopMass, "choose", lambda self, ctx: choose(self, ctx).roll(1, dims=-1))
    assert "sink_h1 - baseline (rmse)" in wrong(bench([0], ["one_head"]))


def test_a_verdict_that_ignores_the_margin_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(*, ci: tuple[float, float], identical: bool = False, **_: Any) -> str:
        return "different" if ci[0] > 0 or ci[1] < 0 else "equivalent"

    monkeypatch.setattr(effects_module, "verdict", hasty)
    found = wrong(bench([0], ["opposite_tasks"]))
    # An average of nothing over two opposite effects is no proof of nothing.
    assert "sink - baseline (scene)" in found


# ---- the plant is what it says


def test_masses_are_as_planted() -> None:
    planted, pipe = build("moving", 3)
    with observe(pipe, [1], queries="image") as seen:
        images = pipe("a red square at day view 1", num_inference_steps=planted.steps).images
    assert [image.size for image in images] == [(64, 64)]
    found = seen.mass(layer=1)[:, 0].numpy()
    assert found.shape == planted.plant.mass.shape == (planted.steps, HEADS, KEYS)
    # Noise in the logits moves single masses by a few per cent of themselves.
    assert np.abs(found - planted.plant.mass).max() < 0.02
    assert np.corrcoef(np.log(found).ravel(), np.log(planted.plant.mass).ravel())[0, 1] > 0.98


def test_the_layout_is_found_and_not_told() -> None:
    _, pipe = build("insensitive", 0)
    assert [(site.layer, site.kind, site.heads, site.segments) for site in sites(pipe)] == [
        (0, "joint", HEADS, ()),
        (1, "joint", HEADS, ()),
    ]
    with observe(pipe) as seen:
        pipe("a red square at day view 1", num_inference_steps=1)
    table = seen.sinks(keys_per_head=KEYS)
    assert set(table["segment"]) == {"image", "text"}
    assert ((table["segment"] == "image") == (table["key"] < IMAGE_KEYS)).all()


def test_two_seeds_plant_different_keys_and_one_seed_the_same() -> None:
    one, again, other = (build("heavy_necessary", seed)[0].plant.carry for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_tables_of_a_plant() -> None:
    rng = np.random.default_rng(0)
    mass = masses({3: 0.4, 70: 0.001}, rng)
    assert mass[3] == np.float32(0.4) and mass[70] == np.float32(0.001)
    assert mass.sum() == pytest.approx(1.0, abs=1e-6) and mass.min() == np.float32(0.001)
    keys = draw_keys(5, rng)
    assert keys.shape == (HEADS, 5) and len(np.unique(keys)) == HEADS * 5
    assert only(keys).sum(-1).tolist() == [5.0] * HEADS
    table = np.broadcast_to(mass, (1, HEADS, KEYS))
    zeros = everywhere(only(keys))
    with pytest.raises(UsageError, match="sum to 0.9"):
        Plant(0.9 * table, table[0], zeros, zeros, only(keys))


def test_one_prompt_is_painted_alike_alone_and_in_a_batch() -> None:
    _, pipe = build("heavy_irrelevant", 1)
    texts = ["a blue square at night view 5", "a green square at day view 9"]
    together = pipe(texts, generator=[torch.Generator().manual_seed(s) for s in (1, 2)], output_type="np")
    alone = pipe(texts[1], generator=torch.Generator().manual_seed(2), output_type="np")
    assert np.allclose(together.images[1], alone.images[0], atol=1e-6)


@pytest.mark.parametrize("text", ["a square", "a red or blue square"])
def test_prompts_the_model_does_not_understand_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected one of red, yellow"):
        build("insensitive", 0)[1](text)


@pytest.mark.parametrize(
    ("seeds", "cases", "message"),
    [([0], ["heavy"], "Unknown planted case 'heavy'"), ([], None, "at least one"), ([-1], None, "from 0")],
)
def test_wrong_requests(seeds: list[int], cases: list[str] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench(seeds, cases)


# ---- table and command


def test_tally_counts_seeds_and_answers() -> None:
    found = ["a", "a", "a", "b"]
    table = pd.DataFrame({"case": "one_head", "seed": [0, 0, 1, 1], "question": [1, 2, 1, 2], "found": found})
    row = tally(table.assign(expected="a", correct=table["found"] == "a")).iloc[0].to_dict()
    assert row.pop("planted") == (CASES["one_head"].__doc__ or "")
    counts = {"seeds": 2, "seeds_all_right": 1, "questions": 2, "correct": 3, "total": 4}
    assert row == {"case": "one_head", **counts}


def test_the_command_prints_the_table_and_fails_when_an_answer_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["planted", "--seeds", "1", "--cases", "early_only"]
    assert cli.main([*command, "--out", str(tmp_path / "answers.csv")]) == 0
    shown = capsys.readouterr()
    assert "5 of 5 answers are right" in shown.out and "early_only: 5 of 5" in shown.err
    assert pd.read_csv(tmp_path / "answers.csv")["correct"].all()
    monkeypatch.setattr(Mask, "apply", lambda self, call, chosen, random: call)
    assert cli.main([*command, "--quiet"]) == 1
    shown = capsys.readouterr()
    assert "wrong answers" in shown.out and "early - baseline (rmse)" in shown.out and not shown.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cases", "heavy"], "Unknown planted case"),
        (["--seeds", "0"], "expected a whole number from 1"),
        (["--out", "x.txt"], "ends in .csv"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["planted", *flags]) == 2
    assert message in capsys.readouterr().err
