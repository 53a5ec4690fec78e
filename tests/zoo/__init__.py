"""Tiny random models of the real classes, one `Specimen` each; the shared family test runs them all."""

from __future__ import annotations

from .images import IMAGES
from .language import LANGUAGE
from .specimen import Specimen
from .video import VIDEO
from .vision import VISION

SPECIMENS: dict[str, Specimen] = {
    specimen.name: specimen for specimen in (*IMAGES, *VIDEO, *LANGUAGE, *VISION)
}
