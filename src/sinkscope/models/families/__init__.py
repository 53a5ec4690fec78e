"""What cannot be read off a running model: names.

A family entry says which module lists hold the numbered blocks, what their attention modules are called, in
which order streams are concatenated and which encoders make which part of the text. Nothing else in this room
knows a model by name, and a model that is not listed still works: `_sites` guesses kinds from the modules and
`_layout` finds the order of the streams by perturbation. The shared family test checks every entry here
against that probe.
"""

from __future__ import annotations

from torch import nn

from ._family import Family, Taken
from ._known import known_families, supported
from .audio import AUDIO
from .images import IMAGES
from .language import LANGUAGE
from .video import VIDEO
from .vision import VISION

__all__ = ["FAMILIES", "Family", "Taken", "family_of", "known_families", "supported"]

FAMILIES: dict[str, Family] = {**IMAGES, **VIDEO, **AUDIO, **LANGUAGE, **VISION}
"""Entries by class name of the denoiser."""


def family_of(root: nn.Module) -> Family | None:
    """The entry of a denoiser's class or of the nearest class it inherits from."""
    for kind in type(root).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    return None
