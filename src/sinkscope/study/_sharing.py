"""What the arms of a study need not do twice, decided from the study alone.

Two arms may share work only where they are sampled alike. A null arm (every edit of it a null control) is
compared with the unedited arm call by call instead of being generated; an arm that starts late takes the
steps before its first edit from there. Arms whose attention is recorded run whole, as do unedited repeats:
seeing whether a second run gives the same image is what those are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sinkscope.study._plan import Plan
from sinkscope.study._store import Store
from sinkscope.study._study import Study
from sinkscope.study._trajectory import can_share, idle


@dataclass(frozen=True)
class Sharing:
    """Which arm takes what from which unedited arm."""

    null: dict[str, str] = field(default_factory=dict)
    """Null arm -> the arm it is compared with."""
    late: dict[str, str] = field(default_factory=dict)
    """Arm that starts late -> the arm that has its first steps."""

    def to_dict(self) -> dict[str, Any]:
        """As `study.yaml` has it from the start."""
        images = {arm: {"of": source} for arm, source in self.null.items()}
        return {"images": images, "first_steps": dict(self.late)}

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Sharing:
        """What the arms of a run share, as it was started; nothing in runs of earlier versions."""
        known = record.get("shared", {})
        null = {arm: entry["of"] for arm, entry in known.get("images", {}).items()}
        return cls(null, dict(known.get("first_steps", {})))


def sharing(study: Study, watch: Mapping[str, Any] | None, pipe: Any) -> Sharing:
    """What the arms of a study share when `pipe` generates them.

    Args:
        study: The study.
        watch: The resolved observation, or None.
        pipe: The pipeline.
    """
    watched = () if watch is None else watch["arms"]
    found = Sharing()
    for arm in study.arm_names:
        edits, source = study.edits(arm), _source(study, arm)
        if not edits or source is None or arm in watched:
            continue
        if is_null(study, arm):
            if study.null_arms == "compare" and not study.split:
                found.null[arm] = source
        elif can_share(pipe) and idle(edits, 0, study.sampling(arm)["steps"]):
            found.late[arm] = source
    return found


def outcome(store: Store, plan: Plan, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `study.yaml` says in the end: of each null arm, how many units were found the same as the unedited
    arm's and how many had to be generated; and which batches did not fit into memory at once.
    """
    shared = Sharing.recorded(record)
    counts = {arm: {"equal": 0, "generated": 0} for arm in shared.null}
    for task in plan.tasks():
        marker = store.marker(task) if task.arm in counts else None
        if marker is not None:
            counts[task.arm]["equal" if "same_as" in marker else "generated"] += len(task.batch.units)
    smaller = halved(store, plan)
    images = {arm: {"of": source, **counts[arm]} for arm, source in shared.null.items()}
    return {**shared.to_dict(), "images": images, **({"units_at_once": smaller} if smaller else {})}


def halved(store: Store, plan: Plan) -> dict[str, int]:
    """Batches that did not fit into memory at once, by name, and how many units ran at once instead."""
    found: dict[str, int] = {}
    for task in plan.tasks():
        marker = store.marker(task)
        if marker is not None and "chunk" in marker:
            found[task.batch.name] = int(marker["chunk"])
    return found


def is_null(study: Study, arm: str) -> bool:
    """Whether an arm is a null control: edits that take the masked path without a key."""
    kinds = [None if e.control_info is None else e.control_info.kind for e in study.edits(arm)]
    return bool(kinds) and set(kinds) == {"null"}


def _source(study: Study, arm: str) -> str | None:
    """The first arm without edits that is sampled like this one."""
    alike = study.sampling(arm)
    plain = (name for name in study.arm_names if not study.edits(name))
    return next((name for name in plain if study.sampling(name) == alike), None)
