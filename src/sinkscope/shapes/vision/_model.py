"""The embedded vision transformers: DINOv2 in miniature, with and without registers.

Both have the blocks of transformers' DINOv2 of the same size and are trained on the same scenes with the same
seed; four register tokens (Darcet et al. 2024) are the only difference. From the class token alone they
answer, for each of the eight shapes, whether it is in the picture and in which colour.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
)
from transformers.modeling_outputs import ImageClassifierOutput

from sinkscope.shapes.painter import COLORS, SHAPES

ANSWERS = 1 + len(COLORS)
"""Answers per shape: absent, or a colour."""
REGISTERS = 4


class _FromClassToken:
    """What both models share: the answers are read from the class token."""

    def forward(self, pixel_values: Tensor, **options: Any) -> ImageClassifierOutput:
        """Logits `[image, shapes * answers]` of pixels `[image, 3, 64, 64]` in -1 to 1."""
        hidden = self.backbone(pixel_values, **options).last_hidden_state  # type: ignore[attr-defined]
        return ImageClassifierOutput(logits=self.classifier(hidden[:, 0]))  # type: ignore[attr-defined]


class SceneReader(_FromClassToken, Dinov2ForImageClassification):  # type: ignore[misc]
    """DINOv2 without registers."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    @property
    def backbone(self) -> Any:
        """The transformer without the answers."""
        return self.dinov2


class RegisterSceneReader(_FromClassToken, Dinov2WithRegistersForImageClassification):  # type: ignore[misc]
    """DINOv2 with registers."""

    def __init__(self, config: Dinov2WithRegistersConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    @property
    def backbone(self) -> Any:
        """The transformer without the answers."""
        return self.dinov2_with_registers


KINDS: dict[str, Any] = {"shapes-vit": SceneReader, "shapes-vit-registers": RegisterSceneReader}
"""Class of each embedded vision transformer."""


def config(name: str) -> Any:
    """Sizes of a model; the two differ by the registers."""
    sizes = {
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "mlp_ratio": 4,
        "image_size": 64,
        "patch_size": 8,
        "num_labels": len(SHAPES) * ANSWERS,
        "attn_implementation": "sdpa",
    }
    if name == "shapes-vit":
        return Dinov2Config(**sizes)
    return Dinov2WithRegistersConfig(**sizes, num_register_tokens=REGISTERS)
