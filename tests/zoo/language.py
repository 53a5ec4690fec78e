"""Language models."""

from __future__ import annotations

from .specimen import Specimen

LANGUAGE: tuple[Specimen, ...] = ()
