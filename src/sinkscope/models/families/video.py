"""Video models."""

from __future__ import annotations

from ._family import Family

VIDEO: dict[str, Family] = {}
