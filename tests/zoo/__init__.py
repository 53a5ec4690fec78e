"""Tiny random models of the real classes, one `Specimen` each; the shared family test runs them all."""

from __future__ import annotations

import diffusers

from .images import IMAGES
from .language import LANGUAGE
from .specimen import Specimen
from .video import VIDEO
from .vision import VISION

EVERY: dict[str, Specimen] = {specimen.name: specimen for specimen in (*IMAGES, *VIDEO, *LANGUAGE, *VISION)}
SPECIMENS: dict[str, Specimen] = {
    name: specimen for name, specimen in EVERY.items() if set(specimen.needs) <= set(dir(diffusers))
}
"""Those that the installed version of diffusers has classes for."""
