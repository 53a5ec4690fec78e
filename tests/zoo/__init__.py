"""Tiny random models of the real classes, one `Specimen` each; the shared family test runs them all."""

from __future__ import annotations

import diffusers

from .audio import AUDIO
from .images import IMAGES
from .language import LANGUAGE
from .recent_images import RECENT_IMAGES
from .recent_pipelines import RECENT_PIPELINES
from .recent_video import RECENT_VIDEO
from .specimen import Specimen
from .video import VIDEO
from .vision import VISION

_ALL = (*IMAGES, *RECENT_IMAGES, *VIDEO, *RECENT_VIDEO, *RECENT_PIPELINES, *AUDIO, *LANGUAGE, *VISION)
EVERY: dict[str, Specimen] = {specimen.name: specimen for specimen in _ALL}
SPECIMENS: dict[str, Specimen] = {
    name: specimen for name, specimen in EVERY.items() if set(specimen.needs) <= set(dir(diffusers))
}
"""Those that the installed version of diffusers has classes for."""
