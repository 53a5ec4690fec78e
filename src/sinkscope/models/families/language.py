"""Language models."""

from __future__ import annotations

from ._family import Family

LANGUAGE: dict[str, Family] = {}
