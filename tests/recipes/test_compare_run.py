"""The command on a real run folder: a tiny random SD3, its own receipts, traces and scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests.study.small import ARMS, tiny_study
from tests.tiny import FAMILIES

from sinkscope import cli
from sinkscope.recipes._compare import compare
from sinkscope.study import Run, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs") / "table6"
    arms = {name: ARMS[name] for name in ("sink_1", "random_1")}
    study = tiny_study(name="paper/table6:corrected", arms=arms, metrics=("rmse",))
    run(study, made, pipe=FAMILIES["sd3"](), progress=False)
    return made


def test_a_run_folder_is_compared(folder: Path) -> None:
    table = compare(folder)
    effects = Run.open(folder).effects().query("task == 'all'")
    ours = table[table["quantity"] == "effect"].set_index(["metric", "arm", "reference"])["ours"]
    stated = effects.set_index(["metric", "arm", "reference"])["effect"]
    assert ours.loc[stated.index].tolist() == pytest.approx(stated.tolist())
    masses = table[table["metric"] == "mass_before"].set_index("arm")["ours"]
    assert masses["sink_1"] > masses["random_1"] > 0
    shares = table[table["quantity"] == "share"].set_index("metric")["ours"]
    assert 0 <= shares["share_text_sinks"] <= 1
    counted = table[table["metric"] == "n_prompts"]["ours"]
    assert counted.tolist() == [5.0]
    lpips = table[(table["metric"] == "lpips") & (table["arm"] == "sink_1")]
    assert lpips["ours"].isna().all() and set(lpips["published"]) == {0.347, 0.295, 6.0}
    assert lpips["note"].str.contains("lpips was not computed").all()


def test_the_command_prints_and_writes_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.csv"
    assert cli.main(["compare", str(folder), "--out", str(out), "--notes"]) == 0
    printed = capsys.readouterr().out
    assert "paper/table6 (corrected): ours on tiny, 5 of given, 1 task" in printed
    assert "0.347" in printed and "known faults D9, D12" in printed
    written = pd.read_csv(out, keep_default_na=False)
    assert written["preset"].unique().tolist() == ["paper/table6"]
    assert cli.main(["compare", str(folder)]) == 0
    assert "known faults" not in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_message(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert cli.main(["compare", str(folder), "--out", "table.xlsx"]) == 2
    assert "ends in .csv, .md, .tex" in capsys.readouterr().err
    text = (folder / "study.yaml").read_text()
    renamed = tmp_path / "other"
    renamed.mkdir()
    (renamed / "study.yaml").write_text(text.replace("paper/table6:corrected", "mine"))
    assert cli.main(["compare", str(renamed)]) == 2
    assert "which is no preset of the paper" in capsys.readouterr().err
