"""Edits as data: validation, plain dictionaries, hashes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkscope.attention import (
    BottomMass,
    Frozen,
    Mask,
    MassAbove,
    NextMass,
    RandomKeys,
    RandomQueries,
    ReplaceOutput,
    ReplaceValue,
    ScaleLogit,
    Segment,
    Selector,
    TopConcentration,
    TopMass,
)
from sinkscope.errors import UsageError
from sinkscope.models import ControlInfo, Edit
from sinkscope.models._matched import MatchedMass, MatchedQueries

SELECTORS = [
    TopMass(keys_per_head=1),
    TopMass(shared_keys=24, queries="text"),
    RandomKeys(keys_per_head=2, seed=3, exclude=TopMass(keys_per_head=2)),
    Frozen(MassAbove(times_uniform=5.0), step=2),
    Segment("text"),
]
ACTIONS = [Mask(), ScaleLogit(shift=-1.5), ReplaceValue("noise", amount=0.5, seed=4)]

edits = st.builds(
    Edit,
    st.sampled_from(SELECTORS),
    st.sampled_from(ACTIONS),
    layers=st.none() | st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True),
    sites=st.none() | st.just("*.attn2"),
    kind=st.none() | st.sampled_from(["joint", "all"]),
    steps=st.sampled_from([(0.0, 1.0), (0.25, 0.5), [0], [0, 1], [3, 1], range(4)]),
    branch=st.sampled_from(["both", "cond", "uncond"]),
    heads=st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    queries=st.sampled_from(["all", "image", "text"]),
)


@settings(max_examples=30, deadline=None)
@given(edits)
def test_an_edit_survives_json(edit: Edit) -> None:
    again = Edit.from_dict(json.loads(json.dumps(edit.to_dict())))
    assert again == edit
    assert again.hash == edit.hash and len(edit.hash) == 12
    assert replace(edit) == edit


@settings(max_examples=30, deadline=None)
@given(edits, st.sampled_from(["count", "segment", "mass", "persistence", "null"]), st.integers(0, 5))
def test_a_control_survives_json_and_keeps_the_scope(edit: Edit, kind: str, seed: int) -> None:
    control = edit.control(kind, seed)
    assert Edit.from_dict(json.loads(json.dumps(control.to_dict()))) == control
    assert control.hash != edit.hash
    assert control.control_info is not None and control.control_info.of == edit.hash
    for name in ("layers", "sites", "kind", "steps", "branch", "heads", "queries"):
        assert getattr(control, name) == getattr(edit, name)


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert Edit(TopMass(keys_per_head=1), layers=[3]).hash == Edit(TopMass(keys_per_head=1), layers=(3,)).hash
    assert Edit(TopMass(keys_per_head=1)).hash == "d78e79963f55"


def test_equal_settings_are_equal_however_written() -> None:
    first = Edit(TopMass(keys_per_head=1), layers=range(3), heads=1, steps=[2, 0])
    second = Edit(TopMass(keys_per_head=1), layers=[2, 0, 1], heads=[1], steps=[0, 2])
    assert first == second and hash(first) == hash(second)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"layers": []}, "layers=()"),
        ({"layers": [1, 1]}, "distinct"),
        ({"layers": [-1]}, "counted from 0"),
        ({"layers": "3"}, "distinct numbers"),
        ({"heads": [0.5]}, "heads"),
        ({"steps": (0.5, 0.5)}, "0 <= start < end <= 1"),
        ({"steps": (0.0, 1.5)}, "0 <= start < end <= 1"),
        ({"steps": (0, 1)}, "ambiguous"),
        ({"steps": []}, "steps=[]"),
        ({"steps": [1, 1]}, "distinct"),
        ({"steps": "all"}, "steps='all'"),
        ({"branch": "conditional"}, "both, cond, uncond"),
        ({"queries": ""}, "queries"),
        ({"sites": ""}, "sites"),
        ({"action": "mask"}, "Mask()"),
        ({"select": "top"}, "TopMass"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as error:
        Edit(**{"select": TopMass(keys_per_head=1), **wrong})  # type: ignore[arg-type]
    assert says in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        ({}, "'select'"),
        ({"select": {"TopMass": {"keys_per_head": 1}}, "layer": [3]}, "Did you mean 'layers'?"),
        ({"select": {"TopMas": {"keys_per_head": 1}}}, "Did you mean 'TopMass'?"),
        ({"select": {"TopMass": {"keys_per_head": 1}}, "control": {"of": "x"}}, "kind, matched, text"),
        ({"select": {"TopMass": {"keys_per_head": 1}}, "control": {"off": "x"}}, "Did you mean 'of'?"),
        ({"select": {"TopMass": {"keys_per_head": 1}}, "control": 3}, "mapping"),
    ],
)
def test_wrong_plain_data_is_refused(plain: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as error:
        Edit.from_dict(plain)
    assert says in str(error.value)


def test_unknown_controls_list_what_exists() -> None:
    edit = Edit(TopMass(keys_per_head=1))
    with pytest.raises(UsageError, match="count, segment, mass, persistence, bottom, next, query, null"):
        edit.control("random")
    with pytest.raises(UsageError, match="original"):
        edit.control("count").control("null")
    for kind in ("bottom", "next"):
        with pytest.raises(UsageError, match=f"Got the {kind!r} control of Segment. Expected TopMass"):
            Edit(Segment("text")).control(kind)
    with pytest.raises(UsageError, match="seed"):
        edit.control("count", seed="a")  # type: ignore[arg-type]


def test_the_query_control_acts_on_queries_and_names_the_group() -> None:
    control = Edit(TopMass(keys_per_head=3), layers=[1]).control("query")
    assert control.select == TopConcentration(queries_per_head=3)
    assert control.action == ReplaceOutput("mean_value") and control.layers == (1,)
    shared = Edit(TopMass(shared_keys=24), queries="text").control("query")
    assert shared.select == TopConcentration(shared_queries=24, queries="text") and shared.queries == "all"
    named = Edit(Frozen(Segment("text"), step=1)).control("query")
    assert named.select == Frozen(MatchedQueries(Segment("text")), step=1)
    for edit in (control, shared, named):
        assert Edit.from_dict(json.loads(json.dumps(edit.to_dict()))) == edit
        assert edit.control_info is not None and "queries per head" in edit.control_info.matched


def test_selector_and_action_have_to_be_of_one_side() -> None:
    with pytest.raises(UsageError, match="TopConcentration chooses queries, but Mask acts on keys"):
        Edit(TopConcentration(queries_per_head=1))
    with pytest.raises(UsageError, match="for example TopConcentration with ReplaceOutput"):
        Edit(TopMass(keys_per_head=1), ReplaceOutput("zero"))
    with pytest.raises(UsageError, match="queries='text' of the selector"):
        Edit(TopConcentration(queries_per_head=1), ReplaceOutput("zero"), queries="text")
    with pytest.raises(UsageError, match="'count' control of RandomQueries, which chooses queries"):
        Edit(RandomQueries(queries_per_head=1), ReplaceOutput("zero")).control("count")


def test_a_control_says_what_it_matched() -> None:
    shared = Edit(TopMass(shared_keys=4)).control("count", seed=7)
    assert shared.select == RandomKeys(shared_keys=4, seed=7, exclude=TopMass(shared_keys=4))
    assert shared.control_info == ControlInfo(
        Edit(TopMass(shared_keys=4)).hash,
        "count",
        ("count per head", "shared over heads"),
        "as many random keys in every row and head, never the keys the treatment would take there",
        7,
    )
    frozen = Edit(Frozen(TopMass(keys_per_head=1), step=2)).control("segment")
    assert frozen.control_info is not None
    assert frozen.control_info.matched == ("count per head", "segment", "persistence")
    assert isinstance(frozen.select, Frozen) and frozen.select.step == 2
    below = Edit(Frozen(TopMass(keys_per_head=3, queries="text"))).control("next")
    assert below.select == Frozen(NextMass(keys_per_head=3, queries="text"))
    inside = Edit(TopMass(shared_keys=3, within="text"))
    assert inside.control("next").select == NextMass(shared_keys=3, within="text")
    assert inside.control("bottom").select == BottomMass(shared_keys=3, within="text")


def test_the_mass_control_counts_the_queries_that_the_receipt_of_the_treatment_counts() -> None:
    def counted(select: Selector, queries: str = "all") -> str | None:
        control = Edit(select, queries=queries).control("mass").select
        assert isinstance(control, MatchedMass)
        return control.queries

    assert counted(TopMass(keys_per_head=1)) is None
    assert counted(TopMass(keys_per_head=1, queries="text")) == "text"
    assert counted(Segment("text")) is None
    assert counted(TopMass(keys_per_head=1, queries="text"), queries="image") == "image"
