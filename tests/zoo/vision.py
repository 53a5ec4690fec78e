"""Vision models, as bare modules of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from .language import _GROUPED, _SPREAD, WORDS, ids, made
from .specimen import Specimen

SIZE, PATCH, REGISTERS = 32, 8, 4
_SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
    "initializer_range": 0.3,
}
_WIDE = {**_SIZES, "intermediate_size": 32}
IMAGE_TOKEN = WORDS - 1


def pictures(rows: int = 2, height: int = SIZE, width: int = SIZE) -> Tensor:
    """Random pictures `[row, channel, height, width]`."""
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(0))


def vit() -> ViTModel:
    """ViT: CLS, patches."""
    return made(ViTModel, ViTConfig(**_WIDE))


def dinov2() -> Dinov2Model:
    """DINOv2 as first released: CLS, patches."""
    return made(Dinov2Model, Dinov2Config(**_SIZES, mlp_ratio=2))


def dinov2_registers() -> Dinov2WithRegistersModel:
    """DINOv2 with registers: CLS, registers, patches."""
    return made(
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**_SIZES, mlp_ratio=2, num_register_tokens=REGISTERS),
    )


def dinov3() -> DINOv3ViTModel:
    """DINOv3: CLS, registers, patches with rotary positions."""
    return made(DINOv3ViTModel, DINOv3ViTConfig(**_WIDE, num_register_tokens=REGISTERS))


def clip_vision() -> CLIPVisionModel:
    """The vision tower of CLIP: CLS, patches."""
    return made(CLIPVisionModel, CLIPVisionConfig(**_WIDE))


def siglip_vision() -> SiglipVisionModel:
    """The vision tower of SigLIP: patches, and a pooling head with a learned query
    (`nn.MultiheadAttention`)."""
    return made(SiglipVisionModel, SiglipVisionConfig(**_WIDE))


def llava() -> LlavaForConditionalGeneration:
    """LLaVA: a vision tower whose patches stand among the words of a Llama."""
    return made(
        LlavaForConditionalGeneration,
        LlavaConfig(
            vision_config=CLIPVisionConfig(**_WIDE),
            text_config=LlamaConfig(**_GROUPED, **_SPREAD),
            image_token_index=IMAGE_TOKEN,
            image_seq_length=(SIZE // PATCH) ** 2,
            vision_feature_layer=-1,
        ),
    )


def look(model: Any) -> Tensor:
    """Hidden states of two pictures."""
    with torch.no_grad():
        found = model(pixel_values=pictures())
    pooled = found.pooler_output
    return (
        found.last_hidden_state
        if pooled is None
        else torch.cat([found.last_hidden_state, pooled[:, None]], 1)
    )


def picture_prompt() -> Tensor:
    """Token ids of two prompts: begin mark, two words, a picture, three words."""
    words = ids(2, 6)
    picture = torch.full((2, (SIZE // PATCH) ** 2), IMAGE_TOKEN)
    return torch.cat([words[:, :3], picture, words[:, 3:]], dim=1)


def look_and_read(model: Any) -> Tensor:
    """Logits of two prompts with a picture each."""
    with torch.no_grad():
        return model(input_ids=picture_prompt(), pixel_values=pictures()).logits


def _vision(name: str, title: str, build: Any, *special: str, **facts: Any) -> Specimen:
    facts = {"segments": (*special, "image"), "run": look, "learned": special, **facts}
    return Specimen(
        name=name,
        title=title,
        group="vision",
        build=build,
        whole=False,
        two=None,
        other=None,
        off=None,
        **facts,
    )


VISION: tuple[Specimen, ...] = (
    _vision("vit", "ViT", vit, "cls"),
    _vision("dinov2", "DINOv2", dinov2, "cls"),
    _vision("dinov2_registers", "DINOv2 with registers", dinov2_registers, "cls", "register"),
    _vision("dinov3", "DINOv3", dinov3, "cls", "register"),
    _vision("clip_vision", "CLIP vision", clip_vision, "cls"),
    _vision(
        "siglip_vision", "SigLIP vision", siglip_vision, learned=("pool",), exact=False, written_out=True
    ),
    _vision(
        "llava", "LLaVA", llava, "cls", segments=("cls", "image", "text"), run=look_and_read, probed=False
    ),
)
