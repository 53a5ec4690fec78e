"""`sinkscope power` on a run folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests.stats.test_tables import BASE, DRAWS, long, noise

from sinkscope import cli, stats


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the command reads of a run: that it is one, and its effects."""
    base = noise(40)
    table = long({"baseline": base, "null": base, "sink": base + 0.1 + noise(40, key=1) / 2})
    both = [BASE, stats.Contrast("null", "baseline")]
    stats.effects(table, contrasts=both, draws=DRAWS).to_parquet(tmp_path / "effects.parquet")
    (tmp_path / "study.yaml").write_text("format: 1\n")
    return tmp_path


def test_power_of_a_run(folder, capsys):
    assert cli.main(["power", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "found with 80 %" in out and "sink - baseline" in out and "stays in" in out
    assert "needs" not in out and "asked" not in out
    assert "left out: m, null - baseline: no standard deviation to go by: the differences do not vary" in out


def test_power_for_an_effect_and_a_margin(folder, capsys):
    assert cli.main(["power", str(folder), "--metric", "m", "--effect", "0.1", "--power", "0.9"]) == 0
    out = capsys.readouterr().out
    sd = stats.power_table(pd.read_parquet(folder / "effects.parquet")).loc[0, "sd"]
    needed = stats.prompts_for_difference(0.1, sd, power=0.9).n
    assert "effect 0.1" in out and f" {needed} " in out and "found with 90 %" in out
    assert cli.main(["power", str(folder), "--margin", "0.2"]) == 0
    assert "margin 0.2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--metric", "n"], 2, "Unknown metric 'n'"),
        (["--power", "2"], 2, "Got power=2.0"),
        (["--effect", "1", "--margin", "1"], 2, "not allowed with"),
    ],
)
def test_power_refuses(folder, capsys, flags, code, message):
    assert cli.main(["power", str(folder), *flags]) == code
    assert message in capsys.readouterr().err


def test_power_of_no_run(tmp_path, capsys):
    assert cli.main(["power", str(tmp_path / "nothing")]) == 1
    assert "is not a run folder" in capsys.readouterr().err
