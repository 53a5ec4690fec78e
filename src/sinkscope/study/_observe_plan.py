"""What a study records of the attention while it generates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sinkscope.errors import UsageError, unknown


@dataclass(frozen=True)
class ObservePlan:
    """Which attention a study writes to `traces.parquet` and `summary.parquet`.

    Raises:
        UsageError: A number is out of range or a field does not exist.
    """

    layers: tuple[int, ...] | None = None
    """Layers to watch. None: all layers of a small model, three (a quarter, half, three quarters deep) of a
    large one."""
    units: int | None = None
    """How many units to watch, in plan order. None: all of a small model, the first 8 of a large one."""
    keys_per_head: int = 1
    """How many top-mass keys per step, row, layer and head go to `traces.parquet`."""
    replacements: int = 0
    """How many keys per step, row, layer and head that took the mass over go to `replacements.parquet`, for
    the same units, in arms that are edits and no controls. Keeps the mass of every key while a batch runs."""
    kind: str | None = None
    """Kind of site. None: joint sites where the model has them, otherwise every kind."""
    arms: tuple[str, ...] = ("baseline",)
    """Arms to watch."""
    full_mass: bool = False
    """Also keep the mass of every key (`Run.full_mass`): 4 bytes x steps x rows x layers x heads x keys, half
    a gigabyte per image of SD3 at 1024 pixels with all layers."""

    def __post_init__(self) -> None:
        """Normalise sequences to tuples and refuse impossible numbers."""
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        object.__setattr__(self, "arms", tuple(self.arms))
        for name in ("units", "keys_per_head"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"ObservePlan {name}={value!r}: expected a whole number from 1.")
        if not isinstance(self.full_mass, bool):
            raise UsageError(f"ObservePlan full_mass={self.full_mass!r}: expected True or False.")
        if (
            isinstance(self.replacements, bool)
            or not isinstance(self.replacements, int)
            or self.replacements < 0
        ):
            raise UsageError(
                f"ObservePlan replacements={self.replacements!r}: expected a whole number from 0."
            )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        data = asdict(self)
        if not self.full_mass:  # so that studies without it keep their hash
            del data["full_mass"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ObservePlan:
        """The plan from plain data; the inverse of `to_dict`."""
        known = [field.name for field in fields(cls)]
        for name in data:
            if name not in known:
                raise unknown("field of observe", name, known)
        return cls(**data)
