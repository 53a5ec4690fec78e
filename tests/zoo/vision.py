"""Vision models."""

from __future__ import annotations

from .specimen import Specimen

VISION: tuple[Specimen, ...] = ()
