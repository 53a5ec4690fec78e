"""The pages say what is there: links resolve, examples parse and load, and public names are documented."""

from __future__ import annotations

import ast
import re
import types
from argparse import ArgumentParser, _SubParsersAction
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import sinkscope
from sinkscope import cli, errors, metrics, stats
from sinkscope.study import ObservePlan, Study

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
TOPICS = (
    "index observe identity intervene studies presets findings prompts run-folder verdicts compare power "
    "planted metrics geneval distances embedded-model families language-vision language-studies performance "
    "errors footguns"
).split()

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def examples(language: str) -> list[Any]:
    return [
        pytest.param(body, id=f"{page.stem}-{index}")
        for page in PAGES
        for index, body in enumerate(blocks(page, language))
    ]


def prose(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def words(name: str) -> set[str]:
    """Words of a page that stand in backticks."""
    return {word for span in re.findall(r"`([^`\n]+)`", prose(name)) for word in re.findall(r"[\w-]+", span)}


def test_the_pages_are_there() -> None:
    assert set(TOPICS) == {page.stem for page in DOCS.glob("*.md")}
    assert not [name for name in TOPICS[1:] if f"({name}.md)" not in prose("index")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [link for link in _LINK.findall(text) if not re.match(r"[a-z]+:|#", link)]
    assert not [link for link in targets if not (page.parent / link.partition("#")[0]).exists()]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_lines_fit_in_110_columns(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [(number, len(line)) for number, line in enumerate(lines, start=1) if len(line) > 110]


# ---- examples


@pytest.mark.parametrize("body", examples("yaml"))
def test_study_files_load(body: str, tmp_path: Path) -> None:
    data = yaml.safe_load(body)
    if "arms" not in data:
        return
    study = Study.from_dict(data)
    (tmp_path / "study.yaml").write_text(body, encoding="utf-8")
    assert Study.from_yaml(tmp_path / "study.yaml") == study
    assert Study.from_dict(study.to_dict()) == study


def test_there_is_a_study_file_to_load() -> None:
    assert any("arms" in yaml.safe_load(body) for body in blocks(DOCS / "studies.md", "yaml"))


@pytest.mark.parametrize("body", examples("python"))
def test_python_examples_use_names_that_exist(body: str) -> None:
    tree = ast.parse(body)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sinkscope":
            import_module(node.module or "")
            for alias in node.names:
                resolve(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Attribute) and (path := dotted(node)):
            resolve(path)


def test_names_in_the_prose_exist() -> None:
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text(encoding="utf-8"))):
            for path in re.findall(r"\bsk(\.[A-Za-z_][\w.]*\w)", span):
                resolve(f"sinkscope{path}")


def dotted(node: ast.expr) -> str | None:
    """`sinkscope.a.b` where an expression starts with `sk` or `sinkscope`."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in ("sk", "sinkscope"):
        return None
    return ".".join(["sinkscope", *reversed(names)])


def resolve(path: str) -> None:
    """Follow a dotted name through modules and classes; fails at the first part that does not exist."""
    found: Any = sinkscope
    for name in path.split(".")[1:]:
        assert hasattr(found, name), f"{path}: {getattr(found, '__name__', found)} has no {name!r}"
        found = getattr(found, name)
        if not isinstance(found, (types.ModuleType, type)):
            return


def example_with(text: str) -> str:
    return next(body for body in blocks(DOCS / "metrics.md", "python") if text in body)


def test_the_metric_of_the_page_works_as_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saturation.py").write_text(example_with("class Saturation"), encoding="utf-8")
    about = tmp_path / "saturation-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: saturation\nVersion: 1.0\n")
    group = re.search(r'entry-points\."([^"]+)"\]\n(.*?)\n', blocks(DOCS / "metrics.md", "toml")[0])
    assert group is not None
    (about / "entry_points.txt").write_text(f"[{group[1]}]\n{group[2].replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    metric = metrics.get("saturation")
    images = [Image.new("RGB", (4, 4), color) for color in ("red", "gray", "black")]
    assert np.array_equal(metric.score(images), [1.0, 0.0, 0.0])
    assert metrics.score_rows(metric, images)["status"].tolist() == ["ok"] * 3
    assert {info.name: info.status for info in metrics.available()}["saturation"] == "ready"


# ---- completeness


def test_every_error_class_is_explained() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert classes | {"ImageError"} <= words("errors")


def test_every_metric_is_explained() -> None:
    assert set(metrics._registry._BUILT_IN) <= words("metrics")


def test_every_field_of_a_study_is_explained() -> None:
    assert {field.name for kind in (Study, ObservePlan) for field in fields(kind)} <= words("studies")


def test_every_column_of_scores_and_effects_is_explained() -> None:
    from sinkscope.study._score import COLUMNS

    asked = {*COLUMNS, *stats._effects.EFFECT_COLUMNS, *stats._dose.DOSE_COLUMNS}
    assert asked <= words("run-folder")


def test_every_column_of_the_attention_tables_is_explained() -> None:
    from sinkscope.models._table import TOKEN_COLUMNS
    from sinkscope.study._store import TABLES

    assert {column for text in TABLES.values() for column in text.split()} <= words("run-folder")
    assert {*TOKEN_COLUMNS} <= words("run-folder") & words("observe")
    assert not [name for name in TABLES if f"`{name}.parquet`" not in prose("run-folder")]


def commands() -> dict[str, ArgumentParser]:
    actions = cli.build_parser()._actions
    return next(action.choices for action in actions if isinstance(action, _SubParsersAction))


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_and_flag_is_explained(command: str) -> None:
    page = prose("studies")
    flags = [flag for action in commands()[command]._actions for flag in action.option_strings]
    assert f"sinkscope {command}" in page
    assert not [flag for flag in flags if flag.startswith("--") and flag not in page]


def test_every_selector_action_and_control_is_explained() -> None:
    from sinkscope import attention
    from sinkscope.models._control import _BUILDERS

    internal = {"NoKeys", "MatchedMass", "MatchedQueries", "MatchedRandom", "StandIns"}
    asked = {*attention.selector_names(), *attention.action_names(), *_BUILDERS} - internal
    assert asked <= words("intervene")
