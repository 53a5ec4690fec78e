import json
from pathlib import Path

import pandas as pd
import pytest

from sinkscope import prompts
from sinkscope.errors import UsageError
from sinkscope.shapes.grammar import TASKS


def test_shapes_prompts_are_stratified_distinct_and_keyed() -> None:
    records = prompts.load("shapes", 96)
    counts = pd.Series([record.task for record in records]).value_counts()
    assert counts["single_object"] == 8  # all there are
    assert set(counts.drop("single_object")) <= {17, 18}
    assert len({record.id for record in records}) == 96
    assert records == prompts.load("shapes", 96)
    assert records != prompts.load("shapes", 96, seed=1)


def test_splits_do_not_meet() -> None:
    seen = {record.text for record in prompts.load("shapes")}
    held = {record.text for record in prompts.load("shapes", split="heldout")}
    assert seen and held and not seen & held


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
def test_files_give_the_same_prompts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"prompts{suffix}"
    rows = [{"prompt": "a red circle, big", "tag": "colors"}, {"prompt": "a blue star", "tag": "single"}]
    if suffix == ".txt":
        path.write_text("\n".join(row["prompt"] for row in rows) + "\n\n")
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    records = prompts.load(path)
    assert [record.text for record in records] == ["a red circle, big", "a blue star"]
    assert records[0].task == ("prompt" if suffix == ".txt" else "colors")


def test_a_subset_is_stratified_not_the_first_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    pd.DataFrame([{"prompt": f"{t} {i}", "task": t} for t in TASKS for i in range(20)]).to_csv(
        path, index=False
    )
    chosen = prompts.load(path, 12)
    assert pd.Series([record.task for record in chosen]).value_counts().eq(2).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "No prompts"), ("a\nb\na\n", "Duplicate prompt text"), ("x\n", "Asked for 5 prompts")],
)
def test_bad_sets_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        prompts.load(path, 5 if "Asked" in message else None)


def test_unknown_sources_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'shapes'"):
        prompts.load("shape")
    with pytest.raises(UsageError, match="is empty"):
        prompts.load(["a circle", "  "])
    broken = tmp_path / "p.jsonl"
    broken.write_text('{"prompt": "a"}\n{not json')
    with pytest.raises(UsageError, match=r"Cannot read .*p\.jsonl"):
        prompts.load(broken)
    nameless = tmp_path / "p.csv"
    nameless.write_text("words\nhello\n")
    with pytest.raises(UsageError, match="has no prompt: columns are words"):
        prompts.load(nameless)
