"""Arms: what is changed in one condition of a study, and what it is compared with.

Most arms are an edit, several edits, or nothing. An `Arm` also changes how images are sampled, and names the
arm it is compared with. As plain data an arm is null, an edit, a list of edits, `{control: KIND, of: ARM}`,
or a mapping with `edits` and the settings of an `Arm`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from sinkscope.errors import UsageError, unknown
from sinkscope.models import Edit

SAMPLING = ("seed_shift", "steps", "guidance", "scheduler", "height", "width")
"""Settings of an arm that change how its images are sampled."""


@dataclass(frozen=True)
class Arm:
    """One condition: edits, and sampling settings that differ from the study's.

    Same batches, same slots and same units as every other arm. An arm that edits must be sampled like the
    unedited arm it is compared with, or their difference would mix both.

    Example:
        >>> from sinkscope.attention import TopMass
        >>> sink = Edit(TopMass(keys_per_head=1))
        >>> weak = Arm(guidance=3.0)                                  # a baseline of its own
        >>> weak_sink = Arm(sink, guidance=3.0, against="weak")       # an edit under that setting
        >>> Arm.from_dict(weak_sink.to_dict()) == weak_sink
        True

    Raises:
        UsageError: A setting is out of range.
    """

    edits: Edit | Sequence[Edit] | None = None
    """Edits that act together; kept as a tuple."""
    against: str | None = None
    """The arm it is compared with. None: the baseline; nothing, for an unedited arm that others are compared
    with."""
    seed_shift: int = 0
    """Added to the seed of the initial noise: another image of the same prompt."""
    steps: int | None = None
    """Sampler steps. None: the study's."""
    guidance: float | None = None
    """Guidance scale. None: the study's."""
    scheduler: str | None = None
    """A sampler of diffusers by class name, for example "FlowMatchHeunDiscreteScheduler", built from the
    configuration of the pipeline's own. Refused where it does not solve the equation the model was trained
    for. None: the pipeline's."""
    height: int | None = None
    """Pixels. None: the study's."""
    width: int | None = None
    """Pixels. None: the study's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", _edits(self.edits))
        for name in ("against", "scheduler"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise UsageError(f"Arm got {name}={value!r}: expected a name or None.")
        for name, least in (("steps", 1), ("height", 1), ("width", 1), ("seed_shift", 0)):
            value = getattr(self, name)
            if value is None and name != "seed_shift":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"Arm got {name}={value!r}: expected a whole number from {least}.")
        if self.guidance is not None:
            good = isinstance(self.guidance, (int, float)) and not isinstance(self.guidance, bool)
            if not good or not math.isfinite(self.guidance) or self.guidance < 0:
                raise UsageError(f"Arm got guidance={self.guidance!r}: expected a number from 0.")

    @property
    def acting(self) -> tuple[Edit, ...]:
        """The edits, as a tuple."""
        return self.edits  # type: ignore[return-value]  # made one in __post_init__

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling settings that differ from the study's."""
        settings = {name: getattr(self, name) for name in SAMPLING}
        return {name: value for name, value in settings.items() if value not in (None, 0)}

    def to_dict(self) -> dict[str, Any]:
        """The arm as plain data; settings that are not used are left out."""
        plain: dict[str, Any] = {"edits": [edit.to_dict() for edit in self.acting]}
        if self.against is not None:
            plain["against"] = self.against
        return {**plain, **self.sampling}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Arm:
        """The arm from plain data; `edits` is null, an edit, or a list of edits.

        Raises:
            UsageError: An unknown field.
        """
        known = [entry.name for entry in fields(cls)]
        for name in plain:
            if name not in known:
                raise unknown("field of an arm", name, known)
        edits = plain.get("edits")
        made = [_edit_from(item) for item in edits] if isinstance(edits, list) else _edit_from(edits)
        return cls(**{**plain, "edits": made})


ArmLike: TypeAlias = Edit | tuple[Edit, ...] | Arm | None
"""What a study accepts as an arm."""


def _edits(value: Any) -> tuple[Edit, ...]:
    if value is None:
        return ()
    found = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    for edit in found:
        if not isinstance(edit, Edit):
            raise UsageError(f"Arm holds {edit!r}: expected an Edit, a list of Edits, or None.")
    return found


def as_arm(value: ArmLike) -> Arm:
    """Any arm as an `Arm`."""
    return value if isinstance(value, Arm) else Arm(value)


def normal_arm(name: str, value: object) -> ArmLike:
    """An arm in its shortest form: None, one edit, several, or an `Arm` that says more than that.

    Raises:
        UsageError: It is no arm.
    """
    if isinstance(value, Arm):
        return value if value.sampling or value.against is not None else _short(value.acting)
    several: tuple[Any, ...] = (value,)
    if isinstance(value, Sequence) and not isinstance(value, str):
        several = tuple(value)
    for edit in several:
        if edit is not None and not isinstance(edit, Edit):
            raise UsageError(f"Arm {name!r} holds {edit!r}: expected an Edit, a list of Edits, or None.")
    if value is None or isinstance(value, Edit):
        return value
    return tuple(edit for edit in several if edit is not None) or None


def _short(edits: tuple[Edit, ...]) -> ArmLike:
    return edits[0] if len(edits) == 1 else edits or None


def plain_arm(arm: ArmLike) -> Any:
    """An arm as plain data."""
    if arm is None:
        return None
    return [edit.to_dict() for edit in arm] if isinstance(arm, tuple) else arm.to_dict()


def arms_from(data: Mapping[str, Any]) -> dict[str, ArmLike]:
    """Arms from plain data; a control may stand before the arm it refers to.

    Raises:
        UsageError: An unknown field, edit, or arm to be the control of.
    """
    arms = {name: _arm_from(value) for name, value in data.items() if not _is_reference(value)}
    return {
        name: _control(name, value, arms) if _is_reference(value) else arms[name]
        for name, value in data.items()
    }


def _is_reference(value: object) -> bool:
    return isinstance(value, Mapping) and "of" in value and "select" not in value


def _arm_from(value: Any) -> ArmLike:
    if isinstance(value, list):
        return tuple(Edit.from_dict(item) for item in value)
    if isinstance(value, Arm):
        return value
    known = [entry.name for entry in fields(Arm)]
    if isinstance(value, Mapping) and "select" not in value and any(name in value for name in known):
        return Arm.from_dict(value)
    return _edit_from(value)


def _edit_from(value: Any) -> Edit | None:
    return value if value is None or isinstance(value, Edit) else Edit.from_dict(value)


def _control(name: str, value: Mapping[str, Any], arms: Mapping[str, ArmLike]) -> ArmLike:
    """The control of another arm, sampled as that arm is."""
    for key in value:
        if key not in ("control", "of", "seed"):
            raise unknown(f"field of the control arm {name!r}", key, ("control", "of", "seed"))
    treated = arms.get(value["of"])
    if treated is None:
        known = [arm for arm, edit in arms.items() if edit is not None]
        raise unknown(f"arm that the control arm {name!r} is a control of,", value["of"], known)
    kind, seed = value.get("control", "count"), value.get("seed", 0)
    arm = as_arm(treated)
    return normal_arm(name, replace(arm, edits=[edit.control(kind, seed=seed) for edit in arm.acting]))
