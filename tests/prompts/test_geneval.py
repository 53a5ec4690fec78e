"""GenEval's prompts: the same as its released files, and a clear refusal where they cannot be."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sinkscope import prompts
from sinkscope.errors import SinkscopeError
from sinkscope.prompts import _geneval
from sinkscope.shapes.grammar import TASKS

RELEASED = "geneval_evaluation_metadata.jsonl"
VARIABLE = "SINKSCOPE_GENEVAL_FOLDER"


def released() -> Path:
    """GenEval's own file, where someone has it."""
    folder = os.environ.get(VARIABLE) or Path(__file__).parents[2].parent / "shared" / "data"
    path = Path(folder) / RELEASED
    if not path.is_file():
        pytest.skip(f"NOT COMPARED with GenEval's own records: no {path}; set {VARIABLE} to its folder")
    return path


def test_every_record_equals_the_released_one() -> None:
    lines = released().read_text(encoding="utf-8").splitlines()
    made = prompts.load("geneval")
    assert [json.loads(line) for line in lines] == [dict(record.metadata) for record in made]
    from_file = prompts.load(released())
    assert [(record.text, record.task) for record in from_file] == [(r.text, r.task) for r in made]
    assert [dict(record.metadata) for record in from_file] == [dict(r.metadata) for r in made]


def test_the_prompt_list_has_the_published_hash() -> None:
    made = prompts.load("geneval")
    _geneval.check_listing(record.text for record in made)
    assert _geneval.SHA256.startswith("55b6e365")
    assert [record.id for record in made] == [f"geneval-{index:04d}" for index in range(553)]


def test_tasks_and_clauses_are_those_of_the_protocol() -> None:
    made = prompts.load("geneval")
    assert list(Counter(record.task for record in made).items()) == list(
        zip(TASKS, (80, 99, 80, 94, 100, 100), strict=True)
    )
    counts = Counter(r.metadata["include"][0]["count"] for r in made if r.task == "counting")
    assert counts == {2: 26, 3: 28, 4: 26}
    places = Counter(r.metadata["include"][1]["position"][0] for r in made if r.task == "position")
    assert places == {"below": 28, "right of": 27, "above": 26, "left of": 19}
    assert [record.task for record in made if "exclude" in record.metadata] == ["counting"] * 80
    people = {r.task for r in made if any(clause["class"] == "person" for clause in r.metadata["include"])}
    assert people and not people & {"colors", "color_attr"}


def test_records_do_not_share_their_metadata() -> None:
    first = prompts.load("geneval")[0]
    first.metadata["include"][0]["class"] = "spoiled"
    assert prompts.load("geneval")[0].metadata["include"][0]["class"] == "bench"


def test_other_random_numbers_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _geneval._captions.cache_clear()
    monkeypatch.setattr(_geneval, "SEED", 44)
    with pytest.raises(SinkscopeError, match=rf"NumPy {np.__version__} draws other .*2\.4\.6 .*by its path"):
        prompts.load("geneval")
    monkeypatch.undo()
    _geneval._captions.cache_clear()
    assert len(prompts.load("geneval")) == 553


def test_a_missing_newline_or_another_order_changes_the_hash() -> None:
    texts = [record.text for record in prompts.load("geneval")]
    with pytest.raises(SinkscopeError, match="SHA-256"):
        _geneval.check_listing(texts[:-1])
    with pytest.raises(SinkscopeError, match="SHA-256"):
        _geneval.check_listing([texts[1], texts[0], *texts[2:]])


def test_the_balanced_set_has_the_published_shares_and_is_shuffled() -> None:
    balanced = prompts.load("geneval-balanced")
    assert Counter(record.task for record in balanced) == _geneval.BALANCED
    assert len({record.id for record in balanced}) == 100
    everything = {record.id: record for record in prompts.load("geneval")}
    assert all(everything[record.id] == record for record in balanced)
    assert len({record.task for record in balanced[:32]}) == 6
    assert balanced == prompts.load("geneval-balanced")
    assert {r.id for r in balanced} != {r.id for r in prompts.load("geneval-balanced", seed=1)}


def test_first_lines_are_taken_only_where_asked_for() -> None:
    everything = prompts.load("geneval")
    first = prompts.load("geneval", 64, order="file")
    assert first == everything[:64]
    assert {record.task for record in first} == {"single_object"}
    assert prompts.load("geneval-balanced", 32, order="file") == prompts.load("geneval-balanced")[:32]
    assert Counter(record.task for record in prompts.load("geneval", 64)).most_common()[0][1] == 11
