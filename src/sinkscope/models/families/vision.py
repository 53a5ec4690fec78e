"""Vision models that are not transformers' own: timm and models built like its vision transformers."""

from __future__ import annotations

from ._family import Family
from .language import READ_OFF

VISION: dict[str, Family] = {
    "VisionTransformer": READ_OFF,
    "DinoVisionTransformer": READ_OFF,
    "Eva": READ_OFF,
    "Beit": READ_OFF,
}
