"""Ours beside published: what is matched, what stays empty, and why."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.recipes.compared import LPIPS, PROMPTS, MemoryRun, calls, study

from sinkscope.errors import UsageError
from sinkscope.recipes._compare import COLUMNS, compare
from sinkscope.recipes._compare_write import readable, title, write
from sinkscope.recipes._published import published
from sinkscope.study import Study
from sinkscope.study._analyse import NO_EFFECTS


@pytest.fixture(scope="module")
def run() -> MemoryRun:
    return MemoryRun(study())


@pytest.fixture(scope="module")
def table(run: MemoryRun) -> pd.DataFrame:
    return compare(run)


def row(table: pd.DataFrame, metric: str, quantity: str, arm: str, reference: str = "") -> Any:
    found = table[
        (table["metric"] == metric)
        & (table["quantity"] == quantity)
        & (table["arm"] == arm)
        & (table["reference"] == reference)
    ]
    assert len(found) == 1, found
    return found.iloc[0]


def test_means_effects_and_ratios_stand_beside_published_ones(table: pd.DataFrame, run: MemoryRun) -> None:
    assert tuple(table.columns) == COLUMNS
    values = run.scores().query("metric == 'lpips'").groupby("arm")["value"].mean()
    mean = row(table, "lpips", "mean", "sink_1")
    assert mean["ours"] == pytest.approx(values["sink_1"], abs=1e-12)
    assert (mean["published"], mean["relation"], mean["published_n"]) == (0.347, "=", 64)
    assert mean["ours_low"] < mean["ours"] < mean["ours_high"] and mean["n"] == 16
    effect = row(table, "lpips", "effect", "sink_5", "random_5")
    assert effect["ours"] == pytest.approx(values["sink_5"] - values["random_5"], abs=1e-12)
    assert (effect["published"], effect["published_low"], effect["published_high"]) == (0.332, 0.308, 0.358)
    assert effect["published_p"] == "<0.0001" and effect["source"].startswith("README.md")
    assert "D10" in effect["note"] and effect["verdict"] == "different"
    ratio = row(table, "lpips", "ratio", "sink_1", "random_1")
    assert ratio["ours"] == pytest.approx(values["sink_1"] / values["random_1"], abs=1e-12)
    assert ratio["ours_low"] < ratio["ours"] < ratio["ours_high"]
    assert (ratio["published"], ratio["relation"]) == (6.0, "~")


def test_the_ratio_of_a_similarity_counts_from_one(table: pd.DataFrame) -> None:
    ours = row(table, "ssim", "ratio", "sink_1", "random_1")["ours"]
    assert ours == pytest.approx(row(table, "lpips", "ratio", "sink_1", "random_1")["ours"], abs=1e-9)


def test_cells_that_are_not_stated_stay_empty_and_not_zero(table: pd.DataFrame) -> None:
    ours = row(table, "lpips", "effect", "sink_1", "baseline")
    assert ours["ours"] == pytest.approx(LPIPS["sink_1"], abs=0.05)
    assert math.isnan(ours["published"]) and math.isnan(ours["published_low"])
    assert ours["source"] == "" and ours["claim"] == "" and pd.isna(ours["published_n"])
    stated = table[table["source"] != ""]
    assert len(stated) == len([e for e in published("paper/table6") if e.quantity != "runtime"])
    assert not (table[["published", "published_low", "published_high"]] == 0).any().any()


def test_the_distance_of_an_image_to_itself_is_no_cell(table: pd.DataFrame) -> None:
    assert table[(table["arm"] == "baseline") & (table["quantity"] == "mean")].empty


def test_every_row_says_where_it_comes_from(table: pd.DataFrame) -> None:
    first = table[["preset", "variant", "scale", "model", "prompts"]].drop_duplicates()
    assert first.to_numpy().tolist() == [["paper/table6", "corrected", "", "shapes", "16 of given, 2 tasks"]]
    assert set(table.loc[table["source"] != "", "published_model"]) == {"SD3 medium"}
    assert "paper/table6 (corrected): ours on shapes, 16 of given, 2 tasks; published on SD3" in title(table)


def test_the_name_may_hold_variant_and_scale() -> None:
    one = compare(MemoryRun(study("paper/table6:as_released:demo"))).iloc[0]
    assert (one["preset"], one["variant"], one["scale"]) == ("paper/table6", "as_released", "demo")


def test_a_stated_number_without_ours_says_why() -> None:
    table = compare(MemoryRun(study("paper/table20:corrected", metrics=("lpips", "clip_t"))))
    missing = row(table, "hps", "effect", "sink_1", "random_1")
    assert math.isnan(missing["ours"]) and missing["published"] == -0.002
    assert "ours: hps was not computed; sinkscope score RUN --metrics hps" in missing["note"]
    assert (
        "ours: this run has no arm 'sink_50'" in row(table, "hps", "effect", "sink_50", "random_50")["note"]
    )
    claim = row(table, "clip_t", "effect", "sink_1", "random_1")
    assert math.isnan(claim["published"]) and claim["claim"].startswith("n.s.") and claim["n"] == 16


def test_tasks_are_shown_where_the_table_is_about_them() -> None:
    assert set(compare(MemoryRun(study("paper/table14")))["task"]) == {"all", "a", "b"}
    assert set(compare(MemoryRun(study()))["task"]) == {"all"}


def test_removed_mass_is_a_mean_and_a_factor_that_may_not_exist() -> None:
    made = study("paper/table4:corrected")
    receipts = calls(made, {"sink_1": (0.3, 0.0), "sink_5": (0.5, 0.05), "random_1": (0.02, 0.01)})
    table = compare(MemoryRun(made, {"receipts": receipts}))
    assert row(table, "mass_before", "mean", "sink_1")["ours"] == pytest.approx(0.3)
    assert row(table, "mass", "reduction", "sink_5")["ours"] == pytest.approx(10)
    none = row(table, "mass", "reduction", "sink_1")
    assert math.isnan(none["ours"]) and "exactly 0: no finite factor" in none["note"]
    stated = row(table, "mass", "reduction", "eta_0")
    assert stated["published"] == 44059 and "no arm 'eta_0'" in stated["note"]
    assert "restates the floor" in stated["note"] and "D7" in stated["note"]


def test_kinds_of_sinks_are_shares_of_the_strongest_keys() -> None:
    made = study("paper/table16:corrected")
    rows = [
        {"unit": f"{p.id}-s0", "arm": arm, "rank": rank, "segment": segment, "role": role, "key": key}
        for p in PROMPTS
        for arm, rank, segment, role, key in (
            ("baseline", 0, "text", "bos", 64),
            ("baseline", 0, "text", "pad", 70),
            ("baseline", 0, "text", "pad", 71),
            ("baseline", 0, "image", None, 0),
            ("baseline", 1, "image", None, 0),
            ("sink_1", 0, "image", None, 0),
        )
    ]
    table = compare(MemoryRun(made, {"traces": pd.DataFrame(rows)}))
    text = row(table, "share_text_sinks", "share", "baseline")
    assert text["ours"] == 0.75 and text["published"] == 0.9999 and "D4" in text["note"]
    assert row(table, "share_bos_sinks", "share", "baseline")["ours"] == 0.25
    assert row(table, "share_index0", "share", "baseline")["ours"] == 0.25


@pytest.mark.parametrize("model", ["tiny", "stabilityai/stable-diffusion-3-medium-diffusers"])
def test_curves_map_the_papers_layers_onto_those_of_the_model(model: str) -> None:
    made = study("paper/table1:corrected", model=model)
    # Of a model whose depth is not known (any more) the three watched layers count; SD3 has its own.
    six, twelve, eighteen = (2, 4, 6) if model == "tiny" else (6, 12, 18)
    rows = [
        {"unit": f"{p.id}-s0", "arm": "baseline", "layer": layer, "step": step, "mean_top1": top}
        for p in PROMPTS
        for layer in (six, twelve, eighteen, *(() if model == "tiny" else (7,)))
        for step, top in enumerate((0.1, 0.3 + layer / 100, 0.2))
    ]
    table = compare(MemoryRun(made, {"summary": pd.DataFrame(rows)}))
    curves = table[(table["metric"] == "mean_top1") & (table["quantity"] == "curve")].set_index("at")
    start, peak = curves.loc[f"layer {twelve}, start"], curves.loc[f"layer {twelve}, peak"]
    assert start["ours"] == pytest.approx(0.1) and start["published"] == 0.071
    assert ("layer 4 here stands for layer 12 there" in start["note"]) == (model == "tiny")
    assert peak["ours"] == pytest.approx(0.3 + twelve / 100) and peak["published"] == 0.105
    assert "at step 1 of 3" in peak["note"]
    assert math.isnan(curves.loc[f"layer {six}, peak"]["published"])


def test_the_embedded_models_layers_stand_at_the_same_fractions() -> None:
    from sinkscope.recipes._compare import _facts, _layers_of_the_paper

    model = _facts("shapes")
    assert model is not None
    n = model.layers
    assert _layers_of_the_paper(model, []) == {6: n // 4, 12: n // 2, 18: 3 * n // 4}


def test_a_study_of_the_unedited_model_alone_is_compared() -> None:
    made = Study(name="paper/table1:corrected:demo", prompts=PROMPTS, arms={}, metrics=())
    nothing = pd.DataFrame({"unit": [], "arm": [], "metric": [], "value": [], "status": []})
    run = MemoryRun(made, {"scores": nothing})
    run.effects = lambda: pd.DataFrame(columns=NO_EFFECTS.split())  # type: ignore[method-assign]
    table = compare(run)
    assert table["ours"].notna().sum() == 1 and row(table, "n_prompts", "count", "")["ours"] == 16
    assert (table["source"] != "").sum() > 20


def test_kinds_of_sites_of_a_unet_are_told_apart() -> None:
    rows = [
        {"unit": f"{p.id}-s0", "arm": "baseline", "rank": 0, "key": 3, "role": None, **about}
        for p in PROMPTS
        for about in ({"site": "a.attn1", "segment": "image"}, {"site": "a.attn2", "segment": "text"})
    ]
    made = study("paper/table5:corrected", model="stabilityai/stable-diffusion-xl-base-1.0")
    table = compare(MemoryRun(made, {"traces": pd.DataFrame(rows)}))
    shares = table[table["metric"] == "share_text_sinks"].set_index("at")
    assert shares["ours"].to_dict() == {"kind self": 0.0, "kind cross": 1.0}
    assert shares.loc["kind cross"]["published"] == 1.0 and math.isnan(shares.loc["kind self"]["published"])
    assert shares.loc["kind cross"]["published_model"] == "SDXL base 1.0"


def test_faults_that_the_corrected_run_does_not_have_are_named() -> None:
    corrected = row(compare(MemoryRun(study())), "lpips", "mean", "sink_1")["note"]
    assert "known faults D9, D12, of which this run does not have D9, D12" in corrected
    released = row(compare(MemoryRun(study("paper/table6:as_released"))), "lpips", "mean", "sink_1")["note"]
    assert released.endswith("known faults D9, D12")


def test_seeds_are_averaged_within_a_prompt() -> None:
    table = compare(MemoryRun(study(seeds=(0, 1))))
    assert row(table, "lpips", "mean", "sink_1")["n"] == 16


def test_a_mean_distance_and_its_effect_have_one_interval(table: pd.DataFrame) -> None:
    mean, effect = row(table, "lpips", "mean", "sink_1"), row(table, "lpips", "effect", "sink_1", "baseline")
    columns = ["ours", "ours_low", "ours_high"]
    assert mean[columns].tolist() == pytest.approx(effect[columns].tolist(), abs=1e-12)


def test_what_is_stated_comes_first(table: pd.DataFrame) -> None:
    stated = (table["source"] != "").tolist()
    assert stated == sorted(stated, reverse=True) and True in stated and False in stated


def test_an_effect_with_too_few_scores_is_refused_alone() -> None:
    run = MemoryRun(study())
    scores = run.scores()
    lost = (scores["arm"] == "sink_1") & (scores["unit"] == "p00-s0")
    scores.loc[lost, ["value", "status"]] = (np.nan, "damaged")
    table = compare(run)
    refused = table["note"].fillna("").str.contains("refused: at least 98%")
    effects = table[table["quantity"] == "effect"]
    assert set(table.loc[refused, "arm"]) == {"sink_1"} and table.loc[refused, "ours"].isna().all()
    assert effects.loc[effects["arm"] != "sink_1", "ours"].notna().any()


def test_a_run_of_no_preset_is_refused() -> None:
    for name in ("demo", "paper/table99:corrected"):
        with pytest.raises(UsageError, match=rf"{name!r}, which is no preset.*sinkscope presets"):
            compare(MemoryRun(study(name)))


@pytest.mark.parametrize("suffix", [".csv", ".md", ".tex"])
def test_the_table_is_written_in_three_forms(table: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write(table, path)
    text = path.read_text()
    assert "0.347" in text
    if suffix == ".csv":
        again = pd.read_csv(path)
        assert len(again) == len(table) and list(again.columns) == list(COLUMNS)
        assert again["published"].isna().sum() == table["published"].isna().sum()
    elif suffix == ".md":
        header, rule = [line for line in text.splitlines() if line.startswith("|")][:2]
        assert all(
            line.replace(r"\|", "").count("|") == header.count("|") == rule.count("|")
            for line in text.splitlines()
            if line.startswith("|")
        )
    else:
        assert r"sink\_1" in text and text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {line.replace(r"\&", "").count("&") for line in body} == {len(readable(table).columns) - 1}


def test_the_readable_table_keeps_intervals_and_relations(table: pd.DataFrame) -> None:
    short = readable(table)
    ratio = short[(short["quantity"] == "ratio") & (short["arm"] == "sink_1 / random_1")].iloc[0]
    assert ratio["published"] == "~ 6" and ratio["ours"].count("[") == 1
    assert "0.295 [0.265, 0.323]; p <0.0001" in set(short["published"])
    assert "nan" not in " ".join(short.astype(str).to_numpy().ravel().tolist())


@pytest.mark.parametrize("name", ["table.txt", "none/table.csv"])
def test_a_file_that_cannot_be_written_is_refused_by_name(
    table: pd.DataFrame, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="ends in .csv, .md, .tex|does not exist"):
        write(table, tmp_path / name)


def test_every_column_and_quantity_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    quantities = {entry.quantity for entry in published()} - {"runtime"}
    assert not [name for name in (*COLUMNS, *quantities) if f"`{name}`" not in page]
