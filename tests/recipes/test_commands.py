"""`sinkscope presets` and `sinkscope run` with a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sinkscope import _commands, cli
from sinkscope.study import Study


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """Studies that would have been run."""
    found: list[Study] = []

    def note(study: Study, arguments: Any, *, pipe: Any) -> int:
        found.append(study)
        return 0

    monkeypatch.setattr(_commands, "_run_study", note)
    return found


def test_the_list_and_one_of_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert "paper/table6" in printed and "as_released" in printed
    assert cli.main(["presets", "table6", "--scale", "full", "--variant", "as_released"]) == 0
    printed = capsys.readouterr().out
    assert "paper/table6:as_released:full on shapes" in printed
    assert "64 prompts, 1 seed, 20 steps, 5 arms: 320 images" in printed
    path = tmp_path / "study.yaml"
    assert cli.main(["presets", "paper/table6", "--out", str(path)]) == 0
    assert Study.from_yaml(path).name == "paper/table6:corrected:demo"


def test_a_preset_is_run_by_name(asked: list[Study]) -> None:
    assert cli.main(["run", "paper/table6"]) == 0
    flags = ["--variant", "as_released", "--n-prompts", "6", "--metrics", "ssim,rmse", "--steps", "4"]
    assert cli.main(["run", "paper/table7", *flags]) == 0
    first, second = asked
    assert (first.name, first.model) == ("paper/table6:corrected:demo", "shapes")
    assert second.name == "paper/table6:as_released:demo"
    assert (second.n_prompts, second.metrics, second.steps) == (6, ("ssim", "rmse"), 4)
    given = ["--prompts", "prompts.txt", "--option", "lpips.net=vgg", "--metrics", "lpips"]
    assert cli.main(["run", "paper/table6", *given]) == 0
    assert (asked[2].prompts, asked[2].n_prompts) == ("prompts.txt", None)
    assert asked[2].metric_options == {"lpips": {"net": "vgg"}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "paper/tabel6"], "Unknown preset 'paper/tabel6'.*Did you mean 'paper/table6'"),
        (["presets", "tabel6"], "Unknown preset 'tabel6'"),
        (["run", "paper/table6", "--layers", "1"], "--layers with paper/table6, which has arms of its own"),
        (["run", "paper/table6", "--variant", "x"], "Unknown variant of paper/table6 'x'"),
        (["run", "paper/table6", "--metrics", "beauty"], "Unknown metric 'beauty'"),
        (["run", "--scale", "demo"], "Got --scale without a preset"),
        (["run", "nothing.yaml"], "The study file nothing.yaml is missing"),
        (["run", "nothing.yaml", "--scale", "demo"], "Got both nothing.yaml and --scale"),
        (["presets", "--out", "x.yaml"], "--out needs the name of a preset"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed)
    assert "Traceback" not in printed


def test_the_folder_of_a_preset_is_a_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sinkscope.study

    folders: list[Path] = []

    def stop(study: Study, out: Path, **_: Any) -> None:
        folders.append(out)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sinkscope.study, "run", stop)
    assert cli.main(["run", "paper/table6", "--n-prompts", "4"]) == 130
    (folder,) = folders
    assert folder.parent == Path("runs")
    assert folder.name.startswith("paper-table6-corrected-demo-")
