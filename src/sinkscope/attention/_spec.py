"""Selectors and actions as plain data: to and from dictionaries, and the registries of their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from sinkscope.errors import UsageError, unknown


class Spec:
    """Base of selectors and actions: frozen dataclasses, written as `{"Name": {field: value}}`."""

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """One-entry dictionary of class name and the fields that differ from their defaults."""
        fields = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if item.default is not dataclasses.MISSING and value == item.default:
                continue
            fields[item.name] = _plain(value)
        return {type(self).__name__: fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


S = TypeVar("S", bound=Spec)


class Registry(Generic[S]):
    """Classes by name; other packages add theirs through an entry point group."""

    def __init__(self, kind: str, base: type[S], group: str) -> None:
        self.kind, self.base, self.group = kind, base, group
        self._known: dict[str, type[S]] = {}

    def register(self, cls: type[S]) -> type[S]:
        """Class decorator: make a class known by its name."""
        held = self._known.setdefault(cls.__name__, cls)
        if held is not cls:
            raise UsageError(
                f"A {self.kind} {cls.__name__!r} is already registered by {held.__module__}. "
                "Rename the new class."
            )
        return cls

    def names(self) -> list[str]:
        """All known names, entry points included."""
        self._load()
        return sorted(self._known)

    def build(self, data: Mapping[str, Any]) -> S:
        """Build an object from `{"Name": {field: value}}`."""
        if not isinstance(data, Mapping) or len(data) != 1:
            raise UsageError(
                f'Got {data!r}; expected a {self.kind} written as {{"Name": {{field: value}}}} with '
                "exactly one name."
            )
        name, fields = next(iter(data.items()))
        if name not in self._known:
            self._load()
        if name not in self._known:
            raise unknown(self.kind, name, sorted(self._known))
        cls = self._known[name]
        self._check_fields(cls, fields)
        return cls(**fields)

    def _check_fields(self, cls: type[S], fields: Any) -> None:
        known = [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]
        if not isinstance(fields, Mapping):
            raise UsageError(
                f"Got {fields!r} for {cls.__name__}; expected a mapping with "
                f"{', '.join(known) or 'no fields'}."
            )
        for field in fields:
            if field not in known:
                raise unknown(f"field of {cls.__name__}", field, known)
        needed = [
            item.name
            for item in dataclasses.fields(cls)  # type: ignore[arg-type]
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        ]
        missing = [name for name in needed if name not in fields]
        if missing:
            raise UsageError(
                f"{cls.__name__} needs {', '.join(missing)}; got {sorted(fields) or 'no fields'}."
            )

    def _load(self) -> None:
        for point in entry_points(group=self.group):
            if point.name not in self._known:
                cls = point.load()
                if not (isinstance(cls, type) and issubclass(cls, self.base)):
                    raise UsageError(
                        f"Entry point {point.name!r} of group {self.group!r} is {cls!r}; expected a "
                        f"subclass of {self.base.__name__}. Fix or uninstall the package that declares it."
                    )
                self._known[point.name] = cls
