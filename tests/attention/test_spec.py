"""Selectors and actions as data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

import sinkscope.attention._spec as spec_module
from sinkscope.attention import (
    BottomMass,
    Frozen,
    Keys,
    Mask,
    MassAbove,
    RandomKeys,
    ReplaceValue,
    ScaleLogit,
    ScaleProbability,
    Segment,
    Selector,
    TopMass,
    action_from_dict,
    action_names,
    register_action,
    register_selector,
    selector_from_dict,
    selector_names,
)
from sinkscope.errors import UsageError

SELECTORS = [
    TopMass(keys_per_head=1),
    TopMass(shared_keys=24, queries="image"),
    BottomMass(keys_per_head=2, queries="all"),
    RandomKeys(shared_keys=3, seed=5, within="text"),
    RandomKeys(keys_per_head=3, exclude=Frozen(TopMass(keys_per_head=3), step=2)),
    MassAbove(share=0.1),
    MassAbove(times_uniform=5.0, queries="text"),
    Keys((0, 4), segment="text"),
    Segment("image"),
    Frozen(MassAbove(share=0.5)),
]
ACTIONS = [
    Mask(),
    ScaleLogit(0.5),
    ScaleLogit(shift=-1.0),
    ScaleProbability(0.1),
    ReplaceValue("mean", 0.5),
    ReplaceValue("noise", seed=3),
]


@pytest.mark.parametrize("value", SELECTORS, ids=str)
def test_selectors_survive_json(value: Selector) -> None:
    again = selector_from_dict(json.loads(json.dumps(value.to_dict())))
    assert again == value and hash(again) == hash(value)


@pytest.mark.parametrize("value", ACTIONS, ids=str)
def test_actions_survive_json(value) -> None:
    assert action_from_dict(json.loads(json.dumps(value.to_dict()))) == value


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert TopMass(keys_per_head=1).to_dict() == {"TopMass": {"keys_per_head": 1}}
    assert Mask().to_dict() == {"Mask": {}}
    assert RandomKeys(keys_per_head=1, exclude=TopMass(keys_per_head=2)).to_dict() == {
        "RandomKeys": {"keys_per_head": 1, "exclude": {"TopMass": {"keys_per_head": 2}}}
    }


def test_every_public_name_is_registered() -> None:
    assert set(selector_names()) >= {type(value).__name__ for value in SELECTORS}
    assert set(action_names()) >= {type(value).__name__ for value in ACTIONS}


@pytest.mark.parametrize(
    ("build", "data", "text"),
    [
        (selector_from_dict, {"TopMas": {}}, "Unknown selector 'TopMas'.*Did you mean 'TopMass'"),
        (selector_from_dict, {"TopMass": {"k": 1}}, "Unknown field of TopMass 'k'.*keys_per_head"),
        (selector_from_dict, {"TopMass": {}}, "exactly one budget"),
        (selector_from_dict, {"Keys": {}}, "Keys needs indices; got no fields"),
        (selector_from_dict, {}, "exactly one name"),
        (selector_from_dict, "TopMass", "expected a selector written as"),
        (selector_from_dict, {"TopMass": 1}, "Got 1 for TopMass; expected a mapping with keys_per_head"),
        (action_from_dict, {"Mask": {}, "ScaleLogit": {}}, "exactly one name"),
        (action_from_dict, {"ScaleProbability": {"eta": 2}}, r"eta=2; expected 0..1. To strengthen"),
        (action_from_dict, {"ScaleProbability": {"eta": "x"}}, "eta='x'; expected a finite number"),
        (action_from_dict, {"ScaleLogit": {"shift": float("nan")}}, "shift=nan; expected a finite number"),
        (action_from_dict, {"ReplaceValue": {"with_": "one"}}, "Unknown value target 'one'"),
    ],
)
def test_bad_data_is_one_clear_error(build, data, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        build(data)


@dataclass(frozen=True)
class Plugged(Selector):
    size: int = 1


def test_entry_points_add_names(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("Plugged", f"{__name__}:Plugged", "sinkscope.selectors")
    bad = EntryPoint("Broken", "json:dumps", "sinkscope.selectors")
    registry = spec_module.Registry("selector", Selector, "sinkscope.selectors")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Plugged if self.name == "Plugged" else json.dumps)
    monkeypatch.setattr(spec_module, "entry_points", lambda group: [point])
    assert registry.build({"Plugged": {"size": 3}}) == Plugged(3)
    monkeypatch.setattr(spec_module, "entry_points", lambda group: [bad])
    with pytest.raises(UsageError, match="Entry point 'Broken'.*expected a subclass of Selector"):
        registry.names()


def test_a_name_cannot_be_taken_twice() -> None:
    with pytest.raises(UsageError, match="selector 'TopMass' is already registered"):
        register_selector(type("TopMass", (Selector,), {}))
    assert register_selector(TopMass) is TopMass and register_action(Mask) is Mask
