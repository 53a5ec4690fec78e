"""What each arm of a study is, read from its edit in study.yaml: role, budget, partner, one line of words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

Role = Literal["baseline", "sink", "random", "bottom", "segment", "null", "value", "other"]
COUNTED = frozenset({"MatchedRandom", "StandIns"})
"""Selectors that take as many keys as another one."""
BUDGETS = ("keys_per_head", "shared_keys")
CONTROLS = frozenset({"random", "segment"})
SINK_SELECTORS = frozenset({"TopMass", "MassAbove"})
SELECTOR_ROLES: dict[str, Role] = {"RandomKeys": "random", "BottomMass": "bottom"}
CONTROL_ROLES: dict[str, Role] = {
    "count": "random",
    "random": "random",
    "persistence": "segment",
    "bottom": "bottom",
    "null": "null",
    "segment": "segment",
}


@dataclass(frozen=True)
class Arm:
    """One condition of a study."""

    name: str
    role: Role
    budget: int | None = None
    budget_kind: str = "keys_per_head"
    text: str = ""
    family: str = ""
    """The edit without its budget: arms of one family form a dose-response."""
    scope: str = ""
    """The arm's name where another arm of the same role has the same budget."""
    control: str = ""
    """Kind of control, as in `Edit.control`; empty where the arm is none."""

    @property
    def dose(self) -> str:
        """The budget in words, unmistakable among the arms of its role."""
        return f"{self._size}: {self.scope}" if self.scope else self._size

    @property
    def _size(self) -> str:
        if self.budget is None:
            return "no budget stated"
        unit = "per head" if self.budget_kind == "keys_per_head" else "shared by all heads"
        return f"{self.budget} key{'' if self.budget == 1 else 's'} {unit}"


def read_arms(study: Mapping[str, Any], seen: Iterable[str] = ()) -> dict[str, Arm]:
    """Arms by name, baseline first; arms only `seen` in the tables have the role "other"."""
    made = {
        "baseline": Arm(
            "baseline", "baseline", text="the model unchanged, through the same path with an empty edit"
        )
    }
    arms = study.get("arms")
    for name, edit in arms.items() if isinstance(arms, Mapping) else ():
        if name != "baseline":
            made[str(name)] = _arm(str(name), edit)
    for name in seen:
        made.setdefault(str(name), Arm(str(name), "other", text="its edit is not stated in study.yaml"))
    shared = Counter((a.role, a.budget, a.budget_kind) for a in made.values())
    return {
        name: replace(a, scope=name) if shared[a.role, a.budget, a.budget_kind] > 1 else a
        for name, a in made.items()
    }


def _arm(name: str, edit: Any) -> Arm:
    if isinstance(edit, Mapping) and "select" not in edit:
        return _sampled(name, edit)
    edits = [e for e in (edit if isinstance(edit, list) else [edit]) if isinstance(e, Mapping)]
    if not edits:
        return Arm(name, "null", text="an empty edit")
    budget, kind = _budget(edits[0].get("select"))
    text = "; then ".join(_words(e) for e in edits)
    arm = Arm(name, _role(edits[0]), budget, kind, text, _family(edits))
    control = edits[0].get("control")
    return replace(arm, control=str(control.get("kind", ""))) if isinstance(control, Mapping) else arm


def _sampled(name: str, arm: Mapping[str, Any]) -> Arm:
    """An arm that also changes the sampling, or names what it is compared with."""
    settings = ", ".join(f"{key} {value}" for key, value in arm.items() if key != "edits")
    if not arm.get("edits"):
        return Arm(name, "other", text=f"no edit; {settings}")
    made = _arm(name, arm["edits"])
    return replace(made, text=f"{made.text}; {settings}", family=f"{made.family} {settings}")


def _family(edits: list[Mapping[str, Any]]) -> str:
    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): strip(v) for k, v in value.items() if k not in (*BUDGETS, "control")}
        return value

    return json.dumps([strip(e) for e in edits], sort_keys=True, default=str)


def _tag(value: Any) -> tuple[str, Mapping[str, Any]]:
    """`{"TopMass": {...}}` -> ("TopMass", {...}); also the flat form with a `kind` or `type` field."""
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping) or not value:
        return "", {}
    if len(value) == 1:
        name, fields = next(iter(value.items()))
        return str(name), fields if isinstance(fields, Mapping) else {}
    return str(value.get("kind", value.get("type", ""))), value


def _selector(select: Any) -> tuple[str, Mapping[str, Any]]:
    name, fields = _tag(select)
    return _selector(fields.get("select")) if name == "Frozen" else (name, fields)


def _budget(select: Any) -> tuple[int | None, str]:
    name, fields = _selector(select)
    if name in COUNTED:
        return _budget(fields.get("of"))
    for kind in BUDGETS:
        if isinstance(fields.get(kind), int):
            return int(fields[kind]), kind
    return None, "keys_per_head"


def _role(edit: Mapping[str, Any]) -> Role:
    control = edit.get("control")
    selector, action = _selector(edit.get("select"))[0], _tag(edit.get("action"))[0]
    if isinstance(control, Mapping):
        role = CONTROL_ROLES.get(str(control.get("kind")), "other")
        return "other" if action == "ReplaceValue" and role != "null" else role
    if selector in SINK_SELECTORS:
        return "value" if action == "ReplaceValue" else "sink"
    return SELECTOR_ROLES.get(selector, "other")


def _words(edit: Mapping[str, Any]) -> str:
    control = edit.get("control")
    if isinstance(control, Mapping) and control.get("text"):
        return str(control["text"])
    selector, fields = _selector(edit.get("select"))
    action, options = _tag(edit.get("action"))
    said = ", ".join(f"{k}={v}" for k, v in fields.items() if v is not None)
    acted = ", ".join(f"{k.rstrip('_')}={v}" for k, v in options.items() if v is not None)
    scope = [f"layers {edit['layers']}" if edit.get("layers") is not None else "all layers"]
    scope += [f"{key} {edit[key]}" for key in ("steps", "branch", "queries") if edit.get(key) is not None]
    return f"{action or 'no action'}({acted}) on {selector or 'no keys'}({said}), {', '.join(scope)}"


def pairs(arms: Mapping[str, Arm], effects: pd.DataFrame | None) -> list[tuple[Arm, Arm | None]]:
    """Each sink-removal arm with its control, smallest budget first.

    The pairing declared in the effects (kind "edit-control") wins; otherwise the random arm of equal budget.
    """
    declared: dict[str, str] = {}
    if effects is not None:
        rows = effects[effects["kind"] == "edit-control"]
        for arm, reference in zip(rows["arm"], rows["reference"], strict=True):
            if arms.get(reference, arms["baseline"]).role in CONTROLS:
                declared.setdefault(arm, reference)
    sinks = [arm for arm in arms.values() if arm.role == "sink"]
    found: list[tuple[Arm, Arm | None]] = []
    for sink in sorted(sinks, key=lambda a: (a.budget is None, a.budget or 0, a.name)):
        key = (sink.budget, sink.budget_kind)
        same = [a for a in arms.values() if a.role in CONTROLS and (a.budget, a.budget_kind) == key]
        partner = arms.get(declared.get(sink.name, ""), same[0] if same else None)
        found.append((sink, partner))
    return found
