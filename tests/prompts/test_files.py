"""Prompt files: GenEval's, PartiPrompts', COCO's and plain ones, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sinkscope import prompts
from sinkscope.errors import UsageError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology\n"
    '"Fly an airplane" is written on a wall. \tOutdoor Scenes\tWriting & Symbols\t\n'
    "0\tAbstract\tBasic\t\n"
)


def test_partiprompts_keep_quotes_and_columns(tmp_path: Path) -> None:
    records = prompts.load(write(tmp_path, "PartiPrompts.tsv", PARTI))
    assert [record.text for record in records] == ["bond", '"Fly an airplane" is written on a wall.', "0"]
    assert [record.task for record in records] == ["Abstract", "Outdoor Scenes", "Abstract"]
    assert records[1].metadata["Challenge"] == "Writing & Symbols"
    assert [r.task for r in prompts.load(tmp_path / "PartiPrompts.tsv", tasks="Abstract")] == ["Abstract"] * 2


def test_a_tsv_that_pandas_wrote_reads_back(tmp_path: Path) -> None:
    texts = ['a sign that says "hi"', "plain", '"all" of "it"']
    pd.DataFrame({"prompt": texts}).to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    assert [record.text for record in prompts.load(tmp_path / "p.tsv")] == texts


def coco(*captions: tuple[int, int, str]) -> str:
    rows = [{"image_id": image, "id": i, "caption": text} for image, i, text in captions]
    return json.dumps({"info": {}, "images": [{"id": 9}], "annotations": rows})


def test_coco_gives_the_first_caption_of_every_image(tmp_path: Path) -> None:
    content = coco((9, 31, "later"), (9, 4, "A dog.\n"), (2, 5, "A cat"), (9, 6, "other"))
    records = prompts.load(write(tmp_path, "captions_val2014.json", content))
    assert [(r.id, r.text) for r in records] == [
        ("coco-000000000002", "A cat"),
        ("coco-000000000009", "A dog."),
    ]
    assert records[1].metadata["annotation_id"] == 4 and records[1].metadata["image_id"] == 9


def test_repeated_captions_are_dropped_only_where_asked_for(tmp_path: Path) -> None:
    path = write(
        tmp_path, "c.json", coco((1, 1, "A cat"), (2, 2, "A  cat "), (3, 3, "A dog"), (4, 4, "A cat"))
    )
    with pytest.raises(UsageError, match=r"coco-0+1 at position 1 and coco-0+2 at 2, and 1 more.*repeats="):
        prompts.load(path)
    assert [record.text for record in prompts.load(path, repeats="drop")] == ["A cat", "A dog"]


def test_a_json_list_holds_texts_or_objects(tmp_path: Path) -> None:
    content = json.dumps(["a cat", {"prompt": "a dog", "task": "animals", "id": "dog"}])
    first, second = prompts.load(write(tmp_path, "p.json", content))
    assert (first.text, first.task) == ("a cat", "prompt")
    assert (second.id, second.task) == ("dog", "animals")


def test_separators_inside_a_json_text_do_not_end_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "p.jsonl", '{"prompt": "one\u2028line"}\r\n\r\n{"prompt": "two"}\r\n')
    assert [record.text for record in prompts.load(path)] == ["one\u2028line", "two"]


def test_spreadsheets_may_add_a_mark_quotes_and_line_breaks(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfid,Caption\r\na1,"one, two\nthree"\r\n\r\na2,"say ""hi"""\r\n'
    records = prompts.load(write(tmp_path, "p.csv", content))
    assert [(r.id, r.text) for r in records] == [("a1", "one, two\nthree"), ("a2", 'say "hi"')]


def test_parquet_becomes_plain_data_without_images_and_gaps(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": "a"}] * 2)
    include = pa.array([[{"class": "cat", "color": None}], [{"class": "dog", "color": "red"}]])
    when = pa.array(pd.to_datetime(["2024-01-02", "2024-01-03"]))
    columns = {"caption": ["a cat", "a red dog"], "n": [1, None], "image": image, "raw": [b"1", b"2"]}
    pq.write_table(pa.table({**columns, "include": include, "when": when}), tmp_path / "p.parquet")
    first, second = prompts.load(tmp_path / "p.parquet")
    assert first.metadata["include"] == [{"class": "cat"}] and first.metadata["n"] == 1
    assert second.metadata["include"] == [{"class": "dog", "color": "red"}]
    assert set(second.metadata) == {"caption", "include", "when"}
    assert yaml.safe_load(yaml.safe_dump(dict(first.metadata))) == first.metadata


def test_names_of_columns_match_in_any_case_and_the_filled_one_wins(tmp_path: Path) -> None:
    rows = [{"TEXT": "a cat", "Prompt": "", "Tag": "x", "id": 0}, {"TEXT": "no", "Prompt": "a dog", "id": 1}]
    path = write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert [(r.id, r.text, r.task) for r in prompts.load(path)] == [
        ("0", "a cat", "x"),
        ("1", "a dog", "prompt"),
    ]


BAD: list[tuple[str, Any, str]] = [
    (
        "p.jsonl",
        '{"prompt": "a"}\n\n{"prompt": }',
        r"Cannot read .*p\.jsonl: line 3: Expecting value at column 12",
    ),
    ("p.jsonl", '["a"]', "line 1 is not an object"),
    ("p.json", "{}", "neither a list of prompts nor COCO's annotations"),
    ("p.json", "[1]", "entry 1 is not an object"),
    ("p.json", '["a"', "Cannot read .*at column"),
    ("p.json", '{"annotations": [{"image_id": 1, "id": 2, "bbox": []}]}', "annotation 1 has no 'caption'"),
    ("p.json", '{"annotations": [{"image_id": "x", "id": 2, "caption": "a"}]}', "must be whole numbers"),
    ("p.csv", "prompt,task\na cat,x\na dog\n", "row 3 has 1 columns, the header has 2"),
    ("p.csv", 'prompt\n"a cat', "Cannot read .*unexpected end of data"),
    ("p.csv", b"prompt\na caf\xe9\n", "Cannot read .*utf-8.*Expected UTF-8 csv"),
    (
        "p.csv",
        "words,tag\nhello,x\n",
        "Row 1 of p.csv has no prompt: columns are words, tag. Expected one of",
    ),
    ("p.csv", "prompt,task\n  ,x\n", "Row 1 of p.csv has '  ' as prompt: expected a text"),
    ("p.tsv", "prompt\ttask\na\tb\tc\n", "row 2 has 3 columns, the header has 2"),
    ("p.jsonl", '{"prompt": null}', "has None as prompt: expected a text"),
    ("p.jsonl", '{"prompt": 3}', "has 3 as prompt: expected a text"),
    ("p.jsonl", '{"prompt": "a", "id": "a/b"}', "Prompt id 'a/b' cannot name a file"),
    ("p.parquet", b"no parquet", "Cannot read .*Expected parquet with prompts"),
    ("p.csv", "", "No prompts in .*p.csv. Expected at least one"),
    ("p.docx", "x", "Cannot read prompts from p.docx. Expected a file ending in .txt, .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=range(len(BAD)))
def test_bad_files_are_refused_with_the_place(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompts.load(write(tmp_path, name, content))


def test_missing_files_folders_and_unknown_names_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.txt does not exist"):
        prompts.load(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="is a folder"):
        prompts.load(tmp_path)
    with pytest.raises(UsageError, match="Unknown prompt set 'geneva'.*Did you mean 'geneval'"):
        prompts.load("geneva")
    with pytest.raises(UsageError, match="To use texts themselves as prompts, give a list"):
        prompts.load("a photo of a cat")
    with pytest.raises(UsageError, match="Unknown prompt set ''"):
        prompts.load("")
    for wrong in (5, None, {"a": 1}, b"x"):
        with pytest.raises(
            UsageError, match="as prompts: expected 'shapes', 'geneval', 'geneval-balanced', the"
        ):
            prompts.load(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Prompt 1 is 7: expected a text"):
        prompts.load(["a cat", 7])  # type: ignore[list-item]


def test_records_and_texts_may_be_mixed(tmp_path: Path) -> None:
    record = prompts.load("geneval", 1)[0]
    assert prompts.load([record, "a cat"])[0] is record


def test_a_path_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "mine.txt", "a cat\n")
    assert [record.text for record in prompts.load("~/mine.txt")] == ["a cat"]
