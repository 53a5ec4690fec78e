"""Presets by name: those of the paper, others of our own, and those other packages add under the entry point
group `sinkscope.recipes`.

An entry point names a `Preset`, or a function or list that gives several.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from sinkscope.errors import MissingDependencyError, UsageError, unknown
from sinkscope.recipes._preset import Preset

GROUP = "sinkscope.recipes"
PAPER = (
    "table1 table2 table3 table4 table5 table6 table9 table10 table12 table13 table14 table15 table16 "
    "table17 table19 table20 qualitative"
)
"""Modules of `recipes.paper` in the order of the paper, each with a `PRESET`."""
BESIDE = ("language.sinks", "vision.registers")
"""Modules of `recipes` with a `PRESET` that is of no paper's table."""


@cache
def _built_in() -> tuple[Preset, ...]:
    names = [*(f"paper.{name}" for name in PAPER.split()), *BESIDE]
    return tuple(import_module(f"sinkscope.recipes.{name}").PRESET for name in names)


def presets() -> list[Preset]:
    """Every preset, those of the paper first.

    Raises:
        MissingDependencyError: The package of a preset cannot be imported.
        UsageError: An entry point is no preset, or takes a name that exists.
    """
    found = {preset.name: preset for preset in _built_in()}
    for point in entry_points(group=GROUP):
        try:
            loaded: Any = point.load()
        except (ImportError, AttributeError) as error:
            raise MissingDependencyError(
                f"Presets {point.name!r} ({point.value}) cannot be imported: {error}. Repair or uninstall "
                "the package that adds them."
            ) from error
        for preset in _several(point.value, loaded):
            if preset.name in found:
                raise UsageError(
                    f"Preset {preset.name!r} is there twice, the second from {point.value}. Rename that one."
                )
            found[preset.name] = preset
    return list(found.values())


def _several(value: str, loaded: Any) -> Iterable[Preset]:
    given = loaded() if callable(loaded) else loaded
    several = [given] if isinstance(given, Preset) else given
    if not isinstance(several, Iterable) or not all(isinstance(item, Preset) for item in several):
        raise UsageError(f"{value} is {loaded!r}: expected a Preset, or a list or function that gives some.")
    return several


def preset(name: str) -> Preset:
    """A preset by name, or by another name of it ("paper/table7" is "paper/table6"; "table6" will do).

    Raises:
        UsageError: There is no such preset; names the nearest.
    """
    known = {other: entry for entry in presets() for other in (entry.name, *entry.aliases)}
    for asked in (name, f"paper/{name}"):
        if asked in known:
            return known[asked]
    raise unknown("preset", name, known)
