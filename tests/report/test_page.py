"""The page as a whole: what it says, escaping, missing parts, and its size."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from sinkscope.errors import StoreError
from sinkscope.report import build


def page(folder: Path) -> str:
    return build(folder).read_text(encoding="utf-8")


def text(source: str) -> str:
    """The words a reader sees."""
    bare = re.sub(r"<(script|style)>.*?</\1>", " ", source, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bare)).split())


class Tags(HTMLParser):
    """Checks that every opened element is closed, and collects ids and external references."""

    VOID = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"]] if named.get("id") else []  # type: ignore[list-item]
        self.links += [str(named[a]) for a in ("src", "href", "xlink:href") if named.get(a)]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_well_formed_and_alone(whole_run: Path) -> None:
    source = (whole_run / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(source)
    assert not tags.open
    assert len(tags.ids) == len(set(tags.ids))
    assert {link.split(",")[0] for link in tags.links if not link.startswith("#")} <= {
        "data:image/png;base64"
    }
    assert "default-src 'none'" in source
    assert source.count("<svg") == 16


def test_page_answers_the_questions(whole_run: Path) -> None:
    words = text((whole_run / "report.html").read_text(encoding="utf-8"))
    assert "Removing sinks changes the image more than removing as many random keys" in words
    assert "Which tokens are the sinks?" in words and "image tokens" in words.lower()
    assert re.search(r"receives \d+\.\d× uniform in layer \d", words)
    assert "beginning-of-text tokens" in words.lower() and "<|startoftext|>" in words
    assert "n = 12 prompts" in words and "95 % interval [" in words
    assert "with an empty edit the mean of every metric equals the baseline's exactly" in words
    for part in (
        "different",
        "equivalent",
        "inconclusive",
        "p (Holm)",
        "margin",
        "sink_5 − random_5",
        "2.13.0",
    ):
        assert part in words
    assert "nan" not in re.findall(r"[a-z]+", words.lower())


def test_numbers_on_the_page_are_those_of_the_tables(whole_run: Path) -> None:
    from sinkscope.report._format import estimate

    words = text((whole_run / "report.html").read_text(encoding="utf-8"))
    effects = pd.read_parquet(whole_run / "effects.parquet")
    for row in effects[effects["task"] == "all"].to_dict("records"):
        for part in estimate(row["effect"], row["ci_low"], row["ci_high"]):
            assert part in words


def test_prompts_names_and_yaml_are_escaped(run_folder: Path) -> None:
    attack = "<script>alert('x')</script><img src=x onerror=alert(1)> \"' </script>"
    for name in ("scores", "traces"):
        frame = pd.read_parquet(run_folder / f"{name}.parquet")
        column = "prompt" if name == "scores" else "token"
        frame[column] = attack
        if name == "scores":
            frame["task"] = frame["task"].replace("counting", "<b>task</b>' onclick='x")
        frame.to_parquet(run_folder / f"{name}.parquet")
    record = yaml.safe_load((run_folder / "study.yaml").read_text(encoding="utf-8"))
    record["study"]["name"] = attack
    (run_folder / "study.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    source = page(run_folder)
    tags = Tags()
    tags.feed(source)
    assert "alert('x')" not in source and "<img src=x" not in source and "<b>task" not in source
    assert source.count("<script>") == 1 and source.count("</script>") == 1
    assert "&lt;script&gt;" in source


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("traces", "traces.parquet is not in the run folder"),
        ("summary", "summary.parquet is not in the run folder"),
        ("receipts", "cannot prove that the edits fired"),
        ("effects", "Cannot be said: the run holds no effects"),
        ("scores", "scores.parquet is not in the run folder"),
    ],
)
def test_a_missing_table_is_named(undrawn: None, run_folder: Path, missing: str, said: str) -> None:
    (run_folder / f"{missing}.parquet").unlink()
    assert said in text(page(run_folder))


def test_only_images_and_study_still_give_a_page(undrawn: None, run_folder: Path) -> None:
    for path in run_folder.glob("*.parquet"):
        path.unlink()
    words = text(page(run_folder))
    assert "does not compare sink removal with anything yet" in words
    assert "prompt not available" in words


def test_empty_tables_as_the_study_writes_them(undrawn: None, run_folder: Path) -> None:
    pd.DataFrame({"metric": [], "task": [], "contrast": []}, dtype="str").to_parquet(
        run_folder / "effects.parquet"
    )
    for name in ("traces", "summary", "receipts"):
        pd.DataFrame({"unit": [], "arm": []}, dtype="str").to_parquet(run_folder / f"{name}.parquet")
    words = text(page(run_folder))
    assert "effects.parquet has no rows" in words and "traces.parquet has no rows" in words


def test_without_a_control_nothing_is_claimed(undrawn: None, run_folder: Path) -> None:
    effects = pd.read_parquet(run_folder / "effects.parquet")
    effects[effects["kind"] == "arm-baseline"].to_parquet(run_folder / "effects.parquet")
    record = yaml.safe_load((run_folder / "study.yaml").read_text(encoding="utf-8"))
    arms = record["study"]["arms"]
    record["study"]["arms"] = {k: v for k, v in arms.items() if not k.startswith("random")}
    (run_folder / "study.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    words = text(page(run_folder))
    assert "without a random control this run cannot say" in words
    assert "more than removing as many random keys" not in words


def test_a_skipped_metric_keeps_its_reason_and_is_never_zero(undrawn: None, run_folder: Path) -> None:
    scores = pd.read_parquet(run_folder / "scores.parquet")
    lost = scores["metric"] == "clip_t"
    scores.loc[lost, "value"] = np.nan
    scores.loc[lost, "status"] = "weights of the tiny CLIP are missing"
    scores.to_parquet(run_folder / "scores.parquet")
    effects = pd.read_parquet(run_folder / "effects.parquet")
    numbers = effects.select_dtypes("number").columns
    effects.loc[effects["metric"] == "clip_t", numbers] = np.nan
    effects.loc[effects["metric"] == "clip_t", "verdict"] = "inconclusive"
    effects.to_parquet(run_folder / "effects.parquet")
    words = text(page(run_folder))
    assert "weights of the tiny CLIP are missing" in words
    assert "for CLIP-T the comparison is inconclusive" in words
    assert "CLIP-T not available" in words and "nan" not in re.findall(r"[a-z]+", words.lower())


def test_missing_and_broken_images_are_named(undrawn: None, run_folder: Path) -> None:
    (run_folder / "units" / "sink_1" / "p000-s0.png").unlink()
    broken = run_folder / "units" / "baseline" / "p001-s0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    words = text(page(run_folder))
    assert "image not available" in words
    assert "units/baseline/p001-s0.png cannot be decoded" in words


def test_damaged_files_and_wrong_folders_are_one_clear_error(
    undrawn: None, run_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="not a run folder"):
        build(tmp_path / "nowhere")
    path = run_folder / "effects.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    with pytest.raises(StoreError, match=r"effects\.parquet is not a readable parquet"):
        build(run_folder)
    pd.DataFrame({"metric": ["scene"]}).to_parquet(path)
    with pytest.raises(StoreError, match="lacks the columns"):
        build(run_folder)
    path.write_bytes(whole)
    (run_folder / "study.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(StoreError, match="not readable YAML"):
        build(run_folder)


@pytest.mark.slow
def test_same_run_same_page_and_no_leftovers(run_folder: Path) -> None:
    first = build(run_folder).read_bytes()
    assert build(run_folder).read_bytes() == first
    assert not list(run_folder.glob(".tmp-*"))


@pytest.mark.slow
def test_report_needs_no_torch(lean_run: Path) -> None:
    code = "import sys; from sinkscope.report import build; build(*sys.argv[1:2], out=sys.argv[2])"
    code += "; assert 'torch' not in sys.modules"
    out = str(lean_run.parent / "other.html")
    subprocess.run([sys.executable, "-c", code, str(lean_run), out], check=True, timeout=120)


@pytest.mark.slow
def test_demo_sized_run_stays_below_ten_megabytes(fake: ModuleType, tmp_path: Path) -> None:
    folder = fake.make(tmp_path / "run", n_prompts=96, steps=20)
    assert build(folder).stat().st_size < 10_000_000


def test_large_images_shrink_and_then_units_give_way(run_folder: Path) -> None:
    from sinkscope.report._arms import read_arms
    from sinkscope.report._gallery import build_gallery

    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    for path in (run_folder / "units").glob("*/*.png"):
        Image.fromarray(noise).save(path)
    scores = pd.read_parquet(run_folder / "scores.parquet")
    arms = read_arms(yaml.safe_load((run_folder / "study.yaml").read_text(encoding="utf-8"))["study"])
    gallery = build_gallery(run_folder, scores, arms, budget=30_000)
    assert 0 < len(gallery.cards) < 6 and f"{len(gallery.cards)} of 6 units are shown" in gallery.note
    assert sum(len(s.source) for c in gallery.cards for s in c.shots) < 33_000
    assert len({c.task for c in gallery.cards}) == len(gallery.cards)
