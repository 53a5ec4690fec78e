"""Tiny denoisers of image families, without the pipelines around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from tests import tiny
from torch import Tensor, nn

TEXT = 6
"""Text tokens of every run."""


def _ready(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = make(**options)
    tiny._spread(model)
    return model.eval().requires_grad_(False)


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _call(model: nn.Module, **inputs: Any) -> Tensor:
    found: Tensor = model(**inputs, return_dict=False)[0]
    return found


def prx() -> nn.Module:
    """Image tokens attend to the text and to themselves; text asks nothing."""
    return _ready(
        diffusers.PRXTransformer2DModel,
        in_channels=4,
        patch_size=2,
        context_in_dim=16,
        hidden_size=16,
        mlp_ratio=1.0,
        num_heads=2,
        depth=2,
        axes_dim=[4, 4],
    )


def run_prx(model: nn.Module) -> Tensor:
    """One forward pass for two rows."""
    mask = torch.tensor([[1] * TEXT, [1] * 4 + [0] * (TEXT - 4)])
    return _call(
        model,
        hidden_states=_noise(2, 4, 8, 8),
        timestep=torch.ones(2),
        encoder_hidden_states=_noise(2, TEXT, 16),
        attention_mask=mask,
    )


def lumina_next() -> nn.Module:
    """Self- and cross-attention share a block's queries."""
    return _ready(
        diffusers.LuminaNextDiT2DModel,
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        cross_attention_dim=16,
    )


def run_lumina_next(model: nn.Module) -> Tensor:
    """One forward pass for two rows."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    return _call(
        model,
        hidden_states=_noise(2, 4, 8, 8),
        timestep=torch.ones(2),
        encoder_hidden_states=_noise(2, TEXT, 16),
        encoder_mask=torch.tensor([[1] * TEXT, [1] * 4 + [0] * (TEXT - 4)]),
        image_rotary_emb=get_2d_rotary_pos_embed_lumina(8, 384, 384),
        cross_attention_kwargs={},
    )


def cogview3() -> nn.Module:
    """CogView3-Plus: text, then image."""
    return _ready(
        diffusers.CogView3PlusTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=8,
        sample_size=8,
    )


def run_cogview3(model: nn.Module) -> Tensor:
    """One forward pass for two rows."""
    size = torch.full((2, 2), 16.0)
    return _call(
        model,
        hidden_states=_noise(2, 4, 8, 8),
        encoder_hidden_states=_noise(2, TEXT, 16),
        timestep=torch.ones(2),
        original_size=size,
        target_size=size,
        crop_coords=torch.zeros(2, 2),
    )


def _ids(rows: int, columns: int) -> Tensor:
    return torch.cartesian_prod(torch.zeros(1).long(), torch.arange(rows), torch.arange(columns)).float()


def _flux_like(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    return _ready(
        make,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
        **options,
    )


def run_flux_like(model: nn.Module, **more: Any) -> Tensor:
    """One forward pass for two rows of packed latents."""
    return _call(
        model,
        hidden_states=_noise(2, 16, 16),
        encoder_hidden_states=_noise(2, TEXT, 16),
        timestep=torch.ones(2),
        img_ids=_ids(4, 4),
        txt_ids=torch.zeros(TEXT, 3),
        **more,
    )


def ovis() -> nn.Module:
    """Ovis-Image: text, then image."""
    return _flux_like(diffusers.OvisImageTransformer2DModel, out_channels=16)


def longcat() -> nn.Module:
    """LongCat-Image: text, then image."""
    return _flux_like(diffusers.LongCatImageTransformer2DModel, pooled_projection_dim=16)


def bria() -> nn.Module:
    """Bria: text, then image."""
    return _flux_like(diffusers.BriaTransformer2DModel)


def hunyuan_image() -> nn.Module:
    """HunyuanImage-2.1: image, then text that was refined first."""
    return _ready(
        diffusers.HunyuanImageTransformer2DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        text_embed_dim=16,
        rope_axes_dim=(4, 4),
    )


def run_hunyuan_image(model: nn.Module) -> Tensor:
    """One forward pass for two rows, the text of the second one shorter."""
    return _call(
        model,
        hidden_states=_noise(2, 4, 4, 4),
        timestep=torch.ones(2),
        encoder_hidden_states=_noise(2, TEXT, 16),
        encoder_attention_mask=torch.tensor([[1] * TEXT, [1] * 4 + [0] * (TEXT - 4)]),
    )


def ernie() -> nn.Module:
    """ERNIE-Image: image, then text."""
    return _ready(
        diffusers.ErnieImageTransformer2DModel,
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=16,
        in_channels=4,
        out_channels=4,
        text_in_dim=16,
        rope_axes_dim=(4, 4, 8),
    )


def run_ernie(model: nn.Module) -> Tensor:
    """One forward pass for two rows, the text of the second one shorter."""
    return _call(
        model,
        hidden_states=_noise(2, 4, 4, 4),
        timestep=torch.ones(2),
        text_bth=_noise(2, TEXT, 16),
        text_lens=torch.tensor([TEXT, 4]),
    )


def cascade() -> nn.Module:
    """The prior of Stable Cascade: image tokens, then text, pooled text and image features."""
    return _ready(
        diffusers.StableCascadeUNet,
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=8,
        conditioning_dim=16,
        block_out_channels=(16, 16),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_text_in_channels=16,
        clip_text_pooled_in_channels=16,
        clip_image_in_channels=16,
        clip_seq=4,
        switch_level=(False,),
    )


def run_cascade(model: nn.Module) -> Tensor:
    """One forward pass for two rows."""
    return _call(
        model,
        sample=_noise(2, 4, 8, 8),
        timestep_ratio=torch.ones(2),
        clip_text_pooled=_noise(2, 1, 16),
        clip_text=_noise(2, TEXT, 16),
        clip_img=_noise(2, 1, 16),
    )
