"""Vision models."""

from __future__ import annotations

from ._family import Family

VISION: dict[str, Family] = {}
