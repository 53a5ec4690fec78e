"""Tiny denoisers of image families of 2025 and 2026, without the pipelines around them."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from tests import tiny
from torch import Tensor, nn

from .image_bare import TEXT, _call, _noise, _ready

PADDED = torch.tensor([[1] * TEXT, [1] * 4 + [0] * (TEXT - 4)])
"""Mask of a text in full and a shorter one."""


def flux3(**changes: Any) -> nn.Module:
    """FLUX.3: image, reference and text on their own first, then all three together."""
    return _ready(
        diffusers.Flux3Transformer2DModel,
        **{
            "in_channels": 16,
            "cond_in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "timestep_channels": 8,
            "axes_dims_rope": (4, 4, 4, 4),
            **changes,
        },
    )


def qwen_image21() -> nn.Module:
    """Qwen-Image 2.1: one attention is several calls, one per run of text and per image."""
    return _ready(
        diffusers.QwenImage21Transformer2DModel,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(4, 6, 6),
    )


def run_qwen_image21(model: nn.Module) -> Tensor:
    """One forward pass for two rows: text, an image to look at, text, padding of the shorter one, image."""
    slots = torch.tensor([[0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1]] * 2).bool()
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    return _call(
        model,
        hidden_states=_noise(2, 4 + 16, 4),
        encoder_hidden_states=_noise(2, 7, 16),
        timestep=torch.full((2,), 0.5),
        img_shapes=[[(1, 2, 2), (1, 4, 4)]] * 2,
        img_mask=slots,
        encoder_hidden_states_mask=mask,
    )


def krea2() -> nn.Module:
    """Krea 2: the layers of the text encoder attend to each other, then the text, then text and image."""
    return _ready(
        diffusers.Krea2Transformer2DModel,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )


def glm_image() -> nn.Module:
    """GLM-Image: the glyphs of the text, then the image that an autoregressive model sketched."""
    return _ready(
        diffusers.GlmImageTransformer2DModel,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=8,
    )


def run_glm_image(model: nn.Module, **more: Any) -> Tensor:
    """One forward pass for two rows, the text of the second one shorter."""
    size = torch.full((2, 2), 16.0)
    return _call(
        model,
        hidden_states=_noise(2, 4, 8, 8),
        encoder_hidden_states=_noise(2, TEXT, 16),
        prior_token_id=torch.arange(32).reshape(2, 16) % 8,
        prior_token_drop=torch.zeros(2, 16, dtype=torch.bool),
        timestep=torch.ones(2),
        target_size=size,
        crop_coords=torch.zeros(2, 2),
        **{"attention_mask": PADDED, **more},
    )


def ideogram4(**changes: Any) -> nn.Module:
    """Ideogram 4: padding, text and image share one sequence."""
    return _ready(
        diffusers.Ideogram4Transformer2DModel,
        **{
            "in_channels": 16,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "adaln_dim": 8,
            "llm_features_dim": 16,
            "mrope_section": (4, 2, 2),
            **changes,
        },
    )


def fibo(**changes: Any) -> nn.Module:
    """Bria Fibo: FLUX whose text takes a layer of its encoder anew in every block."""
    return _ready(
        diffusers.BriaFiboTransformer2DModel,
        **{
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "text_encoder_dim": 8,
            "axes_dims_rope": [4, 4, 8],
            **changes,
        },
    )


def fibo2(**changes: Any) -> nn.Module:
    """Bria Fibo 2: learned tokens read the text, the image reads them; some blocks read the text too."""
    return _ready(
        diffusers.BriaFibo2Transformer2DModel,
        **{
            "in_channels": 4,
            "patch_size": 2,
            "dim": 32,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "cap_feat_dim": 16,
            "injection_layer_ids": (1,),
            "perceiver_num_layers": 1,
            "min_num_gist_tokens": 2,
            "max_num_gist_tokens": 4,
            "gist_step": 1,
            "gist_min_text_len": 4,
            "gist_max_text_len": 6,
            "axes_dims": (4, 6, 6),
            "axes_lens": (16, 8, 8),
            **changes,
        },
    )


def run_fibo2(model: nn.Module) -> Tensor:
    """One forward pass for two rows that look at another image, the text of the second one shorter."""
    return _call(
        model,
        hidden_states=_noise(2, 4, 8, 8),
        timestep=torch.full((2,), 0.5),
        encoder_hidden_states=_noise(2, 2, TEXT, 16),
        encoder_attention_mask=PADDED.bool(),
        context_latents=[_noise(2, 4, 4, 6)],
    )


def nucleus() -> nn.Module:
    """Nucleus-Image: only the image asks, itself and the text."""
    model = _ready(
        diffusers.NucleusMoEImageTransformer2DModel,
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
        mlp_ratio=8.0,
        dense_moe_strategy="leave_first_block_dense",
        num_experts=2,
        moe_intermediate_dim=8,
        capacity_factors=1.0,
    )
    for name, parameter in model.named_parameters():
        if "experts" in name:  # memory that nobody wrote to
            parameter.copy_(0.2 * _noise(*parameter.shape))
    return model


def run_nucleus(model: nn.Module) -> Tensor:
    """One forward pass for two rows, the text of the second one shorter."""
    return _call(
        model,
        hidden_states=_noise(2, 16, 16),
        img_shapes=[(1, 4, 4)] * 2,
        encoder_hidden_states=_noise(2, TEXT, 16),
        encoder_hidden_states_mask=PADDED,
        timestep=torch.ones(2),
    )


def omnigen() -> nn.Module:
    """OmniGen: a language model whose tokens are text, images to look at, the timestep and the image."""
    factors = [1.0] * 8
    return _ready(
        diffusers.OmniGenTransformer2DModel,
        in_channels=4,
        patch_size=2,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        num_layers=2,
        pad_token_id=0,
        vocab_size=16,
        rope_scaling={"long_factor": factors, "short_factor": factors},
        pos_embed_max_size=8,
        time_step_dim=8,
    )


def run_omnigen(model: nn.Module) -> Tensor:
    """One forward pass for two rows: text around an image to look at, and a shorter text without one."""
    ids = torch.tensor([[5, 6, 0, 0, 0, 0, 7, 8], [2, 2, 2, 5, 6, 7, 8, 9]])
    count = ids.shape[1] + 1 + 16
    mask = torch.ones(count, count).tril()
    mask[-16:] = 1
    mask = mask.repeat(2, 1, 1)
    mask[0, 2:6, 2:6] = 1
    mask[1, 3:, :3] = 0
    places = torch.arange(count)
    return _call(
        model,
        hidden_states=_noise(2, 4, 8, 8),
        timestep=torch.full((2,), 0.5),
        input_ids=ids,
        input_img_latents=[_noise(1, 4, 4, 4)],
        input_image_sizes={0: [[2, 6]]},
        attention_mask=mask,
        position_ids=torch.stack([places, (places - 3).clamp(min=0)]),
    )


def joyimage() -> nn.Module:
    """JoyImage-Edit: the image and those to look at are frames, then comes the text."""
    return _ready(
        diffusers.JoyImageEditTransformer3DModel,
        in_channels=4,
        out_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=16,
        mlp_width_ratio=1.0,
        num_layers=2,
        rope_dim_list=[4, 6, 6],
    )


def run_joyimage(model: nn.Module) -> Tensor:
    """One forward pass for two rows: an image to look at, then the painted one."""
    return _call(
        model,
        hidden_states=_noise(2, 2, 4, 1, 8, 8),
        timestep=torch.ones(2),
        encoder_hidden_states=_noise(2, TEXT, 16),
    )


def joyimage_plus() -> nn.Module:
    """JoyImage-Edit-Plus: images of different sizes in patches, padded, then the text."""
    return _ready(
        diffusers.JoyImageEditPlusTransformer3DModel,
        in_channels=4,
        out_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=16,
        mlp_width_ratio=1.0,
        num_layers=2,
        rope_dim_list=[4, 6, 6],
    )


def run_joyimage_plus(model: nn.Module) -> Tensor:
    """One forward pass for two rows: painted images of two sizes, the first with two to look at."""
    return _call(
        model,
        hidden_states=_noise(2, 26, 4, 1, 2, 2),
        timestep=torch.ones(2),
        encoder_hidden_states=_noise(2, TEXT, 16),
        encoder_hidden_states_mask=PADDED,
        shape_list=[[(1, 4, 4), (1, 2, 3), (1, 2, 2)], [(1, 3, 4), (1, 2, 2)]],
    )


def kandinsky3(**changes: Any) -> nn.Module:
    """Kandinsky 3: the pooled text asks the text first; self-attention comes first on the way down, last on
    the way up."""
    return _ready(
        diffusers.Kandinsky3UNet,
        **{
            "in_channels": 4,
            "time_embedding_dim": 8,
            "groups": 2,
            "attention_head_dim": 4,
            "layers_per_block": 2,
            "block_out_channels": (8, 8),
            "cross_attention_dim": 8,
            "encoder_hid_dim": 16,
            **changes,
        },
    )


def prior() -> nn.Module:
    """The prior of Kandinsky 2 and unCLIP: text, pooled text, timestep and the embedding of an image that is
    denoised, then a learned token."""
    return _ready(
        diffusers.PriorTransformer,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=16,
        num_embeddings=tiny.TEXT,
        additional_embeddings=4,
    )


def unet2d() -> nn.Module:
    """A UNet without any condition."""
    return _ready(
        diffusers.UNet2DModel,
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def run_unet2d(model: nn.Module) -> Tensor:
    """One forward pass for two rows."""
    return _call(model, sample=_noise(2, 3, 8, 8), timestep=torch.ones(2))


def cascade_decoder() -> nn.Module:
    """The decoder of Stable Cascade: the image asks itself and vectors made of its pooled text."""
    return _ready(
        diffusers.StableCascadeUNet,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        timestep_ratio_embedding_dim=8,
        conditioning_dim=16,
        block_out_channels=(16, 16),
        num_attention_heads=(0, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        ),
        clip_text_pooled_in_channels=16,
        clip_seq=4,
        effnet_in_channels=4,
        self_attn=True,
        timestep_conditioning_type=("sca",),
    )


def run_cascade_decoder(model: nn.Module) -> Tensor:
    """One forward pass for two rows."""
    return _call(
        model,
        sample=_noise(2, 4, 16, 16),
        timestep_ratio=torch.ones(2),
        clip_text_pooled=_noise(2, 1, 16),
        effnet=_noise(2, 4, 4, 4),
    )


def dreamlite() -> nn.Module:
    """DreamLite: a UNet some of whose blocks have no self-attention."""
    return _ready(
        diffusers.DreamLiteUNetModel,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
    )


def run_dreamlite(model: nn.Module) -> Tensor:
    """One forward pass for two rows, the text of the second one shorter."""
    return _call(
        model,
        sample=_noise(2, 4, 8, 8),
        timestep=torch.ones(2),
        encoder_hidden_states=_noise(2, TEXT, 16),
        encoder_attention_mask=PADDED.bool(),
    )


def uvit() -> nn.Module:
    """aMUSEd: tokens of a vector-quantised picture, most of them masked, are filled in."""
    return _ready(
        diffusers.UVit2DModel,
        hidden_size=16,
        cond_embed_dim=8,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=16,
        vocab_size=32,
        codebook_size=32,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        num_hidden_layers=2,
        num_attention_heads=2,
        block_num_heads=2,
        intermediate_size=16,
        sample_size=8,
    )


def run_uvit(model: nn.Module) -> Tensor:
    """One forward pass for two rows."""
    found: Tensor = model(
        input_ids=torch.arange(128).reshape(2, 8, 8) % 32,
        encoder_hidden_states=_noise(2, TEXT, 16),
        pooled_text_emb=_noise(2, 8),
        micro_conds=torch.ones(2, 5),
    )
    return found


def kolors() -> nn.Module:
    """Kolors: SDXL's UNet, whose text is ChatGLM's, made narrower first."""
    return _ready(
        diffusers.UNet2DConditionModel,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 1),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        cross_attention_dim=8,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text_time",
        addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=16 + 12,
    )


def run_kolors(model: nn.Module) -> Tensor:
    """One forward pass for two rows."""
    return _call(
        model,
        sample=_noise(2, 4, 8, 8),
        timestep=torch.ones(2),
        encoder_hidden_states=_noise(2, TEXT, 16),
        added_cond_kwargs={"text_embeds": _noise(2, 16), "time_ids": torch.zeros(2, 6)},
    )
