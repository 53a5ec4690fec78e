"""Figures: usable from tables alone, written as files, and safe to put into a page several times."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sinkscope.errors import StoreError, UsageError
from sinkscope.report import figures, write_figures
from sinkscope.report._canvas import to_svg


@pytest.fixture(scope="module")
def tables(whole_run: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(whole_run / f"{name}.parquet") for name in ("summary", "traces", "effects")}


def test_heatmap_has_a_labelled_cell_for_each_step_and_layer(tables: dict[str, pd.DataFrame]) -> None:
    svg = to_svg(figures.sink_heatmap(tables["summary"]), "one")
    ET.fromstring(svg)
    assert len(re.findall(r"<title>layer \d, step \d: [\d.]+× uniform</title>", svg)) == 3 * 4
    assert 'role="img"' in svg and "currentColor" in svg and "DejaVu Sans" in svg


def test_ids_of_two_figures_never_meet(tables: dict[str, pd.DataFrame]) -> None:
    ids = [
        set(re.findall(r'id="([^"]+)"', to_svg(figures.sink_lines(tables["summary"]), n))) for n in ("a", "b")
    ]
    assert ids[0] and not ids[0] & ids[1]


def test_names_with_markup_or_formulas_stay_text(tables: dict[str, pd.DataFrame]) -> None:
    effects = tables["effects"].replace({"metric": {"scene": "a<b>$x_1$"}, "arm": {"sink_1": "s<script>&"}})
    svg = to_svg(figures.forest(effects, "a<b>$x_1$"), "f")
    root = ET.fromstring(svg)
    assert "<script" not in svg and any(
        "$x_1$" in (t.text or "") for t in root.iter("{http://www.w3.org/2000/svg}text")
    )


def test_nan_effects_are_drawn_without_a_mark(tables: dict[str, pd.DataFrame], fake: ModuleType) -> None:
    effects = tables["effects"].copy()
    effects.loc[effects["arm"] == "sink_1", ["effect", "ci_low", "ci_high", "margin"]] = np.nan
    arms = figures.read_arms({"arms": fake.arms()})
    ET.fromstring(to_svg(figures.forest(effects, "scene", arms), "f"))
    ET.fromstring(to_svg(figures.dose_response(effects, "scene", arms), "d"))


@pytest.mark.slow
def test_write_makes_every_figure(whole_run: Path, tmp_path: Path) -> None:
    paths = write_figures(whole_run, tmp_path / "figures", formats=("png",))
    names = {p.stem for p in paths}
    assert {
        "overview",
        "sink_heatmap",
        "sink_lines",
        "sinks_by_layer",
        "triplets",
        "forest_scene",
        "dose_rmse",
    } <= names
    with Image.open(tmp_path / "figures" / "overview.png") as image:
        assert image.size[0] > 1200 and np.asarray(image.convert("L")).std() > 10


def test_unknown_format_and_budget(whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Unknown figure format 'gif'"):
        write_figures(whole_run, tmp_path, formats=("gif",))
    with pytest.raises(UsageError, match="Unknown budget 7"):
        figures.triplets(whole_run, budget=7)


def test_overview_of_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: x\n", encoding="utf-8")
    with pytest.raises(StoreError, match="to draw"):
        figures.overview(tmp_path)
