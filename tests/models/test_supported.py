"""The table of supported models is what runs show, and the pages print it."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
from tests.zoo import EVERY, SPECIMENS, Specimen
from tests.zoo.seen import seen, versions

from sinkscope import cli
from sinkscope.errors import UsageError
from sinkscope.models import known_families
from sinkscope.models.families import FAMILIES, supported
from sinkscope.models.families._page import TABLES, renewed
from sinkscope.models.families.language import READ_OFF

ROOT = Path(__file__).parents[2]
ROWS = {row["name"]: row for row in supported()["families"]}


def test_every_specimen_has_a_row() -> None:
    expected = list(ROWS)
    if versions() != supported()["seen_with"]:
        expected = [name for name in ROWS if name in SPECIMENS]
    assert expected == list(SPECIMENS), "run: python -m tests.zoo"


def test_models_that_this_version_lacks_are_named() -> None:
    absent = [name for name in EVERY if name not in SPECIMENS]
    if absent:
        pytest.skip(f"NOT TESTED: diffusers {diffusers.__version__} has no {', '.join(absent)}")


@pytest.mark.zoo
@pytest.mark.parametrize("specimen", SPECIMENS.values(), ids=lambda specimen: specimen.name)
def test_rows_are_what_a_run_shows(specimen: Specimen) -> None:
    found, told = seen(specimen), dict(ROWS[specimen.name])
    if versions() != supported()["seen_with"]:
        # Classes move between versions, and older ones ask for values where newer ones look at shapes.
        told.update({name: found[name] for name in ("from_config", "tested")})
    assert found == told, "run: python -m tests.zoo"


def test_every_listed_class_is_run() -> None:
    """A name in the family tables that no test runs would be a claim nobody checks."""
    run = {kind for row in ROWS.values() for kind in row["class"].split(" + ")}
    named = {kind for kind, family in FAMILIES.items() if family is not READ_OFF}
    assert named - run == set()


@pytest.mark.parametrize("page", ["README.md", "docs/families.md"])
def test_pages_are_current(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert renewed(text) == text, f"run: python -m sinkscope.models.families {page}"


def test_pages_without_a_generated_part() -> None:
    with pytest.raises(UsageError, match="no generated part, expected a line <!-- generated: supported"):
        renewed("# a page\n")


def test_the_tables_hold_every_model() -> None:
    for table in TABLES.values():
        assert not [row["model"] for row in known_families() if row["model"] not in table()]


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sites", "--families"]) == 0
    out = capsys.readouterr().out
    assert f"{len(ROWS)} models that the tests run" in out
    assert all(row["title"].split()[0] in out for row in ROWS.values())
    assert "softmax" in out, "what is refused"
