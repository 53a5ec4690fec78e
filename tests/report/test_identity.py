"""Who the sinks are, on the page: the sentences follow the numbers, and missing tables are said."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from tests.identity import made

from sinkscope.report import _identity_words as words
from sinkscope.report import figures
from sinkscope.report._arms import read_arms
from sinkscope.report._canvas import to_svg
from sinkscope.report._data import RunData, read
from sinkscope.report._identity_facts import Facts

UNITS = [f"p{i}-s0" for i in range(8)]


def facts(chosen: Callable[..., list[int]], units: list[str] = UNITS, **tables: pd.DataFrame) -> Facts:
    sinks = made.sinks(chosen, units=units, steps=(0, 1, 2))
    return Facts(RunData(Path("none"), {}, {"traces": sinks, **tables}), read_arms({}))


def test_a_majority_is_claimed_only_where_the_interval_says_so() -> None:
    padding = words.who(facts(lambda *_: [27])).answer
    assert padding.startswith("Mostly padding: 100 % [100, 100] of the sinks.")
    assert "Among the sinks that are text: 100 % [100, 100] padding" in padding
    mixed = words.who(facts(lambda step, branch, unit, *_: [27 if unit < "p4" else 22])).answer
    assert mixed.startswith("No class clearly holds the majority; first come")
    marks = words.who(facts(lambda step, branch, unit, layer, head: [20 if head else 24])).answer
    assert "Mostly structure (begin and end marks, templates): 100 %" in marks
    assert "No sink is a text token." in words.who(facts(lambda *_: [3])).answer


def test_few_prompts_claim_nothing() -> None:
    few = words.who(facts(lambda *_: [27], units=UNITS[:3]))
    assert "Mostly" not in few.answer and "100 %" in few.answer
    assert "Fewer than 5 prompts" in few.note and "n = 3 prompts" in few.note
    one = words.stays(facts(lambda *_: [27], units=UNITS[:1]))
    assert "interval not available" in one.answer and "above chance" not in one.answer


def test_sinks_are_compared_with_the_number_of_keys() -> None:
    roles = made.roles(
        {
            "image": {("image", None): 0.5, ("text", "bos"): 0.3, ("text", "pad"): 0.2},
            "text": {("image", None): 0.1, ("text", "bos"): 0.1, ("text", "pad"): 0.8},
        },
        unit=UNITS, step=(0, 1, 2), branch=("cond", "uncond"),
    )  # fmt: skip
    # Half of the heads: the begin mark, one of 26 keys; the rest: image, 20 of 26.
    found = words.who(facts(lambda step, branch, unit, layer, head: [20 if head else 3], roles=roles))
    assert "More often than their number of keys would make them: structure (13.0×)" in found.answer
    assert "less often than their number of keys would make them: image tokens (0." in found.answer
    assert "In the unconditional branch, whose prompt has no words" in found.answer
    mass = next(point for point in found.points if point.lead.startswith("Mass of all keys"))
    assert "image and text queries weigh the same" in mass.lead
    assert "padding 50 % [50.0, 50.0], image tokens 30 %" in mass.text and "structure 20 %" in mass.text
    zero = next(point for point in found.points if point.lead.startswith("Key 0"))
    assert "never a sink" in zero.text


def test_sites_that_see_one_segment_alone_are_said() -> None:
    roles = made.roles({"image": {("image", None): 1.0}}, unit=UNITS, step=(0,), layer=(0,))
    other = made.roles(
        {"image": {("text", "bos"): 0.4, ("text", "pad"): 0.6}}, unit=UNITS, step=(0,), layer=(1,)
    )
    both = pd.concat([roles, other], ignore_index=True)
    chosen = facts(lambda step, branch, unit, layer, head: [3 if layer == 0 else 20], roles=both)
    assert "Of 2 sites 1 see image keys alone and 1 see text keys alone" in words.who(chosen).note
    assert "segment is given" not in words.who(facts(lambda *_: [3])).note


def test_staying_and_agreement_stand_beside_chance() -> None:
    constant = words.stays(facts(lambda *_: [4]))
    assert "From one step to the next 100 % [100, 100] of the heads keep their sink" in constant.answer
    assert "blind sets would agree in 3.3 %" in constant.answer and "above chance" in constant.answer
    rng = np.random.default_rng(5)
    blind = words.stays(facts(lambda *_: [int(rng.integers(30))]))
    assert "Not shown to be above chance: between" in blind.answer


def test_what_was_not_recorded_is_said() -> None:
    nothing = Facts(RunData(Path("none"), {}, {}), read_arms({}))
    answers = [make(nothing).answer for make in (words.who, words.stays, words.replaced)]
    assert all(answer.startswith("Not measured") for answer in answers)
    bare = facts(lambda *_: [4])
    assert "not recorded" in " ".join(point.text for point in words.who(bare).points)
    assert words.replaced(bare).answer.startswith("Not measured")


def test_who_takes_over(lean_run: Path) -> None:
    data = read(lean_run)
    found = words.replaced(Facts(data, read_arms(data.study)))
    # The synthetic words gain half of what the begin mark loses, the image 30 %, the padding 20 %.
    assert "Of the removed mass go to text: content 50 % [50.0, 50.0]" in found.answer
    assert "image 30 %" in found.answer and "text: pad 20 %" in found.answer
    assert "The key that gains most takes 50 %" in found.answer
    assert "Fewer than 5 prompts" in found.note and "arithmetic of the softmax" in found.note


def test_the_figures_are_drawn_and_read(lean_run: Path) -> None:
    data = read(lean_run)
    told = Facts(data, read_arms(data.study))
    assert told.takers is not None
    drawn = {
        "panels": figures.identity_panels(told.over_steps, branch="uncond"),
        "overlap": figures.overlap_panels(told.pairs, told.overlaps),
        "takeover": figures.takeover_bars(told.takers),
    }
    for name, figure in drawn.items():
        svg = to_svg(figure, name)
        ET.fromstring(svg)
        assert "<title>" in svg and figure.caption
    assert "text: bos" in to_svg(drawn["panels"], "p") and "by chance" in to_svg(drawn["overlap"], "o")


def test_many_layers_and_steps_are_thinned() -> None:
    sinks = made.sinks(lambda *_: [4], units=UNITS[:2], steps=range(30), layers=range(12), heads=1)
    told = Facts(RunData(Path("none"), {}, {"traces": sinks}), read_arms({}))
    panels = figures.identity_panels(told.over_steps)
    assert len(panels.axes) == 8
    overlap = to_svg(figures.overlap_panels(told.pairs, told.overlaps), "o")
    assert overlap.count("<title>steps ") == 16 * 15 // 2 and overlap.count("<title>layers ") == 12 * 11 // 2


def test_a_table_of_another_kind_is_no_crash() -> None:
    frame = made.sinks(lambda *_: [4], units=UNITS)
    told = Facts(RunData(Path("none"), {}, {"traces": frame.drop(columns="times_uniform")}), read_arms({}))
    assert words.who(told).answer.startswith("Not measured") and told.overlaps.empty
