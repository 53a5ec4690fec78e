"""GenEval's rules against a second derivation of them, in exact fractions and by another road."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sinkscope import prompts
from sinkscope.errors import UsageError
from sinkscope.metrics.geneval import CLASSES, COLORS, Found, Rules, judge, keep, relations

RECORDED = Path(__file__).with_name("geneval_recorded.json")
NAMES = ("dog", "cat", "tv remote")
POSITIONS = ("left of", "right of", "above", "below")


# ---- the second derivation: boxes are integers, scores are thousandths


def iou(a, b):
    """Pixels of two boxes counted one by one, both ends included."""
    cells = [{(x, y) for x in range(box[0], box[2] + 1) for y in range(box[1], box[3] + 1)} for box in (a, b)]
    return Fraction(len(cells[0] & cells[1]), len(cells[0] | cells[1]))


def direction(a, b, slack):
    """Each direction by its own inequality; None within float32 rounding of a border."""
    held, near = set(), False
    # Twice the distance of the centres, so that everything stays an integer or a fraction.
    off = [Fraction(a[i] + a[i + 2] - b[i] - b[i + 2], 2) for i in (0, 1)]
    size = [abs(a[i + 2] - a[i]) + abs(b[i + 2] - b[i]) for i in (0, 1)]
    length = float(off[0] ** 2 + off[1] ** 2) ** 0.5
    if length == 0:
        return set(), False
    for axis, (negative, positive) in enumerate((("left of", "right of"), ("above", "below"))):
        free = float(abs(off[axis]) - slack * size[axis])
        near |= abs(free - length / 2) < 1e-4 * length
        if free > length / 2:
            held.add(negative if off[axis] < 0 else positive)
    return held, near


def surviving(items, task, rules):
    limit = 900 if task == "counting" else 300
    ranked = sorted((item for item in items if item["score"] > limit), key=lambda item: -item["score"])
    out = []
    for item in ranked[: rules.max_objects]:
        crossing = rules.max_overlap < 1 and any(
            iou(item["box"], other["box"]) >= Fraction(str(rules.max_overlap)) for other in out
        )
        if not crossing:
            out.append(item)
    return out


def verdict(scene, task, include, exclude, rules):
    """Correct or not: all include clauses hold and no exclude clause does."""
    left = {name: surviving(items, task, rules) for name, items in scene.items()}
    near = False

    def top(clause):
        some = left.get(clause["class"], [])[: clause["count"]]
        return some if len(some) == clause["count"] else None

    good: list[bool] = []
    for clause in include:
        some = top(clause)
        holds = some is not None
        if holds and "color" in clause:
            holds = all(item["color"] == clause["color"] for item in some)
        if holds and "position" in clause:
            wanted, target = clause["position"]
            holds = good[target]
            for item in some if holds else ():
                for other in top(include[target]):
                    found, close = direction(item["box"], other["box"], Fraction(1, 10))
                    holds, near = holds and wanted in found, near or close
        good.append(holds)
    bad = [len(left.get(clause["class"], [])) >= clause["count"] for clause in exclude]
    return all(good) and not any(bad), near


# ---- scenes


@st.composite
def objects(draw, least=0):
    # Scores of one class differ, as those of a network do; ties have no order worth keeping.
    score = st.one_of(st.integers(1, 999), st.sampled_from([299, 300, 301, 899, 900, 901]))
    scores = draw(st.lists(score, min_size=least, max_size=5, unique=True))
    side = st.integers(1, 12)
    out = []
    for value in scores:
        x, y = draw(st.integers(0, 20)), draw(st.integers(0, 20))
        box = (x, y, x + draw(side), y + draw(side))
        out.append({"box": box, "score": value, "color": draw(st.sampled_from(COLORS[:2]))})
    return out


@st.composite
def clauses(draw):
    out = []
    for index in range(draw(st.integers(1, 3))):
        clause = {"class": draw(st.sampled_from(NAMES)), "count": draw(st.integers(1, 3))}
        if draw(st.booleans()):
            clause["color"] = draw(st.sampled_from(COLORS[:2]))
        if index and draw(st.booleans()):
            clause["position"] = (draw(st.sampled_from(POSITIONS)), draw(st.integers(0, index - 1)))
        out.append(clause)
    return out


def ours(scene, task, include, exclude, rules):
    found = {
        name: [
            Found(np.array(item["box"], np.float32), item["score"] / 1000, np.array([[i]]))
            for i, item in enumerate(items)
        ]
        for name, items in scene.items()
    }

    def colors(name, some):
        return [scene[name][int(item.mask[0, 0])]["color"] for item in some]

    metadata = {"include": include, "exclude": exclude}
    return judge(keep(found, task, rules), metadata, colors, rules)


@given(
    scene=st.fixed_dictionaries({name: objects() for name in NAMES}),
    include=clauses(),
    exclude=st.lists(
        st.fixed_dictionaries({"class": st.sampled_from(NAMES), "count": st.integers(1, 4)}), max_size=1
    ),
    task=st.sampled_from(["counting", "position"]),
    rules=st.builds(
        Rules, max_objects=st.sampled_from([1, 2, 16]), max_overlap=st.sampled_from([0.25, 0.5, 1.0])
    ),
)
@settings(max_examples=150, deadline=None)
def test_any_scene_is_judged_as_the_rules_say(scene, include, exclude, task, rules):
    expected, near = verdict(scene, task, include, exclude, rules)
    assume(not near)
    result = ours(scene, task, include, exclude, rules)
    assert result.correct == expected
    assert (result.reason == "") == expected


@given(a=objects(least=1), b=objects(least=1))
@settings(max_examples=100, deadline=None)
def test_directions_are_those_of_the_inequalities(a, b):
    first, second = a[0]["box"], b[0]["box"]
    expected, near = direction(first, second, Fraction(1, 10))
    assume(not near)
    assert relations(np.array(first, np.float32), np.array(second, np.float32)) == expected
    turned = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    back = relations(np.array(second, np.float32), np.array(first, np.float32))
    assert back == {turned[name] for name in expected}


# ---- known cases


def scene_of(*items):
    return {
        name: [{"box": box, "score": score, "color": color} for n, box, score, color in items if n == name]
        for name in NAMES
    }


DOG = ("dog", (0, 0, 10, 10), 950, "red")
CAT = ("cat", (40, 0, 50, 10), 800, "orange")


@pytest.mark.parametrize(
    ("scene", "task", "include", "exclude", "reason"),
    [
        ([DOG], "single_object", [{"class": "dog", "count": 1}], [], ""),
        ([], "single_object", [{"class": "dog", "count": 1}], [], "expected dog>=1, found 0"),
        ([CAT], "counting", [{"class": "cat", "count": 1}], [], "expected cat>=1, found 0"),
        ([DOG, CAT], "two_object", [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}], [], ""),
        (
            [DOG, ("dog", (20, 0, 30, 10), 940, "red")],
            "counting",
            [{"class": "dog", "count": 1}],
            [{"class": "dog", "count": 2}],
            "expected dog<2, found 2",
        ),
        # More objects than asked for do no harm elsewhere, and only the most confident is looked at.
        (
            [DOG, ("dog", (20, 0, 30, 10), 500, "orange")],
            "colors",
            [{"class": "dog", "count": 1, "color": "red"}],
            [],
            "",
        ),
        (
            [DOG],
            "colors",
            [{"class": "dog", "count": 1, "color": "blue"}],
            [],
            "expected blue dog>=1, found 0 blue; and 1 red",
        ),
        (
            [DOG, CAT],
            "position",
            [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ("right of", 0)}],
            [],
            "",
        ),
        (
            [DOG, CAT],
            "position",
            [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ("above", 0)}],
            [],
            "expected cat above target, found right of target",
        ),
        (
            [CAT],
            "position",
            [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ("above", 0)}],
            [],
            "expected dog>=1, found 0\nno target for cat to be above",
        ),
    ],
)
def test_reasons(scene, task, include, exclude, reason):
    result = ours(scene_of(*scene), task, include, exclude, Rules())
    assert (result.correct, result.reason) == (reason == "", reason)


def test_a_score_must_exceed_the_threshold():
    at = {"dog": [Found(np.zeros(4, np.float32), np.float32(0.3))]}
    assert keep(at, "colors") == {}
    assert (
        len(keep({"dog": [Found(np.zeros(4, np.float32), np.nextafter(np.float32(0.3), np.float32(1)))]}, ""))
        == 1
    )


def test_recorded_detections_are_judged_as_before():
    """Detections drawn once for prompts of every task, with the judgement of GenEval's own code on them."""
    recorded = json.loads(RECORDED.read_text())
    known = {record.id: record for record in prompts.load("geneval")}
    seen = set()
    for case in recorded:
        record = known[case["prompt"]]
        scene = {
            name: [{"box": row[:4], "score": row[4], "color": row[5]} for row in rows]
            for name, rows in case["objects"].items()
        }
        metadata = record.metadata
        rules = Rules(max_overlap=case["max_overlap"])
        result = ours(scene, record.task, metadata["include"], metadata.get("exclude", ()), rules)
        assert [result.correct, result.reason] == case["judgement"], case["prompt"]
        seen.add((record.task, result.correct))
    assert len(seen) == 12  # all six tasks, both ways


def test_every_class_of_the_prompts_is_known():
    named = {clause["class"] for record in prompts.load("geneval") for clause in record.metadata["include"]}
    assert named == set(CLASSES) and len(CLASSES) == 80


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"threshold": 1.5}, "Got threshold=1.5, expected a number from 0 to 1."),
        ({"max_objects": 0}, "Got max_objects=0, expected at least 1."),
        ({"position_threshold": -1}, "Got position_threshold=-1, expected 0 or more."),
    ],
)
def test_impossible_settings(setting, message):
    with pytest.raises(UsageError, match=message):
        Rules(**setting)
