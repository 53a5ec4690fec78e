"""Video models."""

from __future__ import annotations

from .specimen import Specimen

VIDEO: tuple[Specimen, ...] = ()
