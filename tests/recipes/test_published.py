"""The file of published numbers: its schema, that its values are the words of its sources, and no more."""

from __future__ import annotations

import json
import re

import pytest

from sinkscope.recipes import _published, preset
from sinkscope.recipes._published import FILE, Published, defects, published

QUANTITIES = {
    "mean",
    "effect",
    "ratio",
    "reduction",
    "share",
    "curve",
    "range",
    "bound",
    "count",
    "prompt",
    "runtime",
}
ALL = published()


def words(entry: Published) -> str:
    arms = "-".join(filter(None, (entry.arm, entry.reference)))
    where = "-".join(map(str, entry.at.values()))
    return f"{entry.presets[0]}-{entry.metric}-{entry.quantity}-{arms}-{where}"


@pytest.mark.parametrize("entry", ALL, ids=words)
def test_an_entry_keeps_to_the_schema(entry: Published) -> None:
    assert entry.presets and all(
        re.fullmatch(r"paper/(table|figure)\d+|paper/qualitative", p) for p in entry.presets
    )
    assert entry.quantity in QUANTITIES
    assert entry.source and entry.text and entry.model
    assert entry.relation in (None, "=", "~", "<", ">", "|x| <")
    numbers = [entry.value, entry.low, entry.high, entry.p]
    assert all(number is None or isinstance(number, int | float) for number in numbers)
    # Something is stated: a number, two ends, or a claim in words.
    assert entry.value is not None or entry.low is not None or entry.claim
    assert (entry.relation is None) == (entry.value is None and entry.low is None)
    assert (entry.low is None) == (entry.high is None)
    assert entry.low is None or entry.low < entry.high
    if entry.low is not None and entry.value is not None:
        assert entry.low < entry.value < entry.high  # type: ignore[operator]
    assert (entry.p is None) == (entry.p_relation is None)
    assert (entry.reference is None) or entry.quantity in ("effect", "ratio", "bound", "prompt")
    assert set(entry.at) <= {"layer", "point", "prompt", "kind"}
    assert set(entry.defects) <= set(defects())


def test_the_file_holds_nothing_else() -> None:
    document = json.loads(FILE.read_text(encoding="utf-8"))
    assert set(document) == {"paper", "arxiv", "release", "about", "model", "fields", "defects", "entries"}
    assert document["arxiv"] == "2605.09313"
    known = set(Published.__dataclass_fields__)
    explained = {name for names in document["fields"] for name in names.split(", ")}
    assert explained == known
    assert not [entry for entry in document["entries"] if not set(entry) <= known]
    assert set(defects()) == {defect for entry in ALL for defect in entry.defects}


def test_no_cell_is_stated_twice() -> None:
    keys = [(p, e.metric, e.quantity, e.arm, e.reference, str(e.at)) for e in ALL for p in e.presets]
    assert len(keys) == len(set(keys))


def spellings(value: float) -> set[str]:
    """How a number may be written in a source."""
    texts = {f"{value:g}", f"{value:+g}", f"{value:.2f}", f"{value:.3f}", f"{value:+.3f}", f"{value:+.4f}"}
    texts |= {f"{value:,.0f}", f"{100 * value:g}%", f"{100 * value:.2f}%"}
    return texts | ({"10⁸"} if value == 1e8 else set()) | ({"<10⁻⁴"} if value == 1e-4 else set())


@pytest.mark.parametrize("entry", [e for e in ALL if e.quantity != "runtime"], ids=words)
def test_every_number_stands_in_the_words_of_its_source(entry: Published) -> None:
    for number in (entry.value, entry.low, entry.high, entry.p):
        if number is not None:
            assert any(text in entry.text for text in spellings(number)), (number, entry.text)


def test_runtimes_are_the_stated_minutes_and_hours() -> None:
    for entry in (e for e in ALL if e.quantity == "runtime"):
        if entry.value is None:
            assert (entry.low, entry.high) == (2, 3) and "2-3 hours" in entry.text
        else:
            minutes = round(60 * entry.value)
            assert f"~{minutes} min" in entry.text or f"{entry.value:g} hours" in entry.text


STATED = [
    ("paper/table6", "lpips", "mean", "sink_1", None, 0.347),
    ("paper/table6", "lpips", "mean", "random_1", None, 0.053),
    ("paper/table7", "lpips", "effect", "sink_1", "random_1", 0.295),
    ("paper/table7", "lpips", "effect", "sink_5", "random_5", 0.332),
    ("paper/table6", "lpips", "ratio", "sink_5", "random_5", 6.0),
    ("paper/table4", "mass", "reduction", "eta_0", None, 44059),
    ("paper/table20", "hps", "effect", "sink_1", "random_1", -0.002),
    ("paper/table20", "hps", "effect", "sink_10", "random_10", -0.005),
    ("paper/table20", "hps", "effect", "sink_50", "random_50", -0.020),
    ("paper/table16", "share_text_sinks", "share", "baseline", None, 0.9999),
    ("paper/table2", "n_prompts", "count", None, None, 553),
]


@pytest.mark.parametrize(("preset", "metric", "quantity", "arm", "reference", "value"), STATED)
def test_the_headline_numbers_are_there(
    preset: str, metric: str, quantity: str, arm: str | None, reference: str | None, value: float
) -> None:
    found = [
        entry.value
        for entry in published(preset)
        if (entry.metric, entry.quantity, entry.arm, entry.reference) == (metric, quantity, arm, reference)
    ]
    assert found == [value]


def test_intervals_and_p_values_are_those_of_the_tables() -> None:
    ends = {
        (e.metric, e.arm): (e.low, e.high, e.p_relation, e.p)
        for preset in ("paper/table7", "paper/table20")
        for e in published(preset)
        if e.quantity == "effect" and e.low is not None
    }
    assert ends == {
        ("lpips", "sink_1"): (0.265, 0.323, "<", 0.0001),
        ("lpips", "sink_5"): (0.308, 0.358, "<", 0.0001),
        ("hps", "sink_10"): (-0.008, -0.001, "=", 0.007),
        ("hps", "sink_50"): (-0.026, -0.013, "<", 0.0001),
    }


def test_tables_without_stored_numbers_have_no_values_invented() -> None:
    # Tables 2, 3, 10 to 15, 18: the release keeps no measured score of theirs.
    for number in (2, 3, 10, 11, 12, 13, 14, 18):
        for entry in published(f"paper/table{number}"):
            measured = entry.metric in ("clip_t", "imagereward", "hps", "lpips", "fid")
            assert not measured or entry.value is None
    assert not published("paper/table12") and not published("paper/table13")


def test_an_unknown_preset_has_no_numbers() -> None:
    assert published("paper/table99") == []
    assert len(_published._document()["entries"]) == len(ALL) > 70


@pytest.mark.parametrize("name", sorted({name for entry in ALL for name in entry.presets}))
def test_its_arms_are_those_of_the_presets(name: str) -> None:
    table = preset(name)
    study = table.study("as_released", model=table.paper_model, scale="full")
    for entry in published(name):
        if entry.quantity in ("mean", "effect", "ratio", "reduction", "share"):
            assert {entry.arm, entry.reference or "baseline"} <= set(study.arm_names)
            known = entry.metric in study.metrics
            assert known or entry.metric in ("mass", "mass_before", "share_text_sinks", "share_index0")
    assert name in (table.name, *table.aliases)
