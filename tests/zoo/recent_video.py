"""Denoisers of video models that diffusers has had since 0.36, alone, and the UNets of older ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .bare_video import _noise, awake, bare
from .specimen import Specimen

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 2,
}
_NOW = torch.tensor([500.0])
_PADDED = torch.tensor([[1] * 5 + [0] * 2])


def wan_animate(**options: Any) -> Any:
    """Wan Animate: adapters that show each latent frame the face in it."""
    return awake(
        "WanAnimateTransformer3DModel",
        **{
            **WAN,
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 8,
            "added_kv_proj_dim": 24,
            "rope_max_seq_len": 32,
            "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 8,
            "face_encoder_hidden_dim": 8,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 2,
            **options,
        },
    )


def framepack() -> Any:
    """FramePack: HunyuanVideo that goes on from what it painted, all in one sequence."""
    return awake(
        "HunyuanVideoFramepackTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
        has_image_proj=True,
        image_proj_dim=8,
        has_clean_x_embedder=True,
    )


def helios(**options: Any) -> Any:
    """Helios: Wan that goes on from what it painted; only new frames ask the text."""
    return awake(
        "HeliosTransformer3DModel", **{**WAN, "rope_dim": (4, 4, 4), "is_amplify_history": True, **options}
    )


def kandinsky6(**options: Any) -> Any:
    """Kandinsky 6: video and audio, each refining the text for itself and attending to the other."""
    return awake(
        "Kandinsky6Transformer3DModel",
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=options.pop("in_text_dim2", 8),
        time_dim=16,
        model_dim=32,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
        in_audio_dim=4,
        out_audio_dim=4,
        text_token_padding=True,
        ca_rope=True,
        cross_gates=True,
        fix_modulation=True,
    )


def motif() -> Any:
    """Motif-Video: the last blocks start anew from the latents, with the video so far beside them."""
    return awake(
        "MotifVideoTransformer3DModel",
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=2,
        num_decoder_layers=1,
        text_embed_dim=16,
        image_embed_dim=8,
        rope_axes_dim=(2, 4, 4),
        enable_text_cross_attention_dual=True,
        enable_text_cross_attention_single=True,
    )


def run_motif(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        hidden_states=_noise(1, 9, 3, 4, 6),
        timestep=_NOW,
        encoder_hidden_states=_noise(1, 7, 16),
        encoder_attention_mask=_PADDED,
        image_embeds=_noise(1, 5, 8),
    )


def minimax_h3() -> Any:
    """MiniMax H3: one sequence of text, audio and video, laid out by the caller."""
    return awake(
        "MiniMaxH3Transformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        ffn_dim=32,
        in_channels=4,
        audio_in_channels=4,
        text_dim=16,
        freq_dim=16,
        time_embed_hidden_dim=16,
        time_embed_dim=16,
        rope_freq_dim=2,
    )


def run_minimax_h3(model: Any, **changes: Any) -> Tensor:
    """A picture of six tokens, the text, audio, and two frames of video: five, four and twelve tokens."""
    text, audio, video = range(6, 11), range(11, 15), [*range(6), *range(15, 27)]
    places = {"text": torch.tensor(text), "audio": torch.tensor(audio), "video": torch.tensor(video)}
    tags = torch.zeros(27, dtype=torch.long)
    tags[places["text"]], tags[places["audio"]] = 1, 2
    with torch.no_grad():
        painted, heard = model(
            hidden_states=_noise(1, 18, 16),
            audio_hidden_states=_noise(1, 4, 4),
            encoder_hidden_states=_noise(1, 5, 16),
            timestep=torch.tensor([0.5]),
            timestep_indices=torch.zeros(27, dtype=torch.long),
            token_tags=tags,
            position_ids=torch.arange(27.0)[:, None].expand(27, 3),
            **{f"{name}_indices": place for name, place in places.items()},
            return_dict=False,
        )
    return torch.cat([painted.flatten(), heard.flatten()])


def anyflow() -> Any:
    """AnyFlow: Wan with two timesteps, and features of a picture before the text in the same call."""
    return awake("AnyFlowTransformer3DModel", **WAN, rope_max_seq_len=32, image_dim=8)


def run_anyflow(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        hidden_states=_noise(1, 3, 4, 4, 6),
        timestep=_NOW[:, None].expand(1, 3),
        r_timestep=_NOW[:, None].expand(1, 3) - 100,
        encoder_hidden_states=_noise(1, 7, 16),
        encoder_hidden_states_image=_noise(1, 257, 8),
    )


def anyflow_far() -> Any:
    """AnyFlow FAR: frames attend to earlier ones by a block mask, which only flex attention takes."""
    return awake("AnyFlowFARTransformer3DModel", **WAN, rope_max_seq_len=32, chunk_partition=(1, 1, 1))


def run_anyflow_far(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        hidden_states=_noise(1, 3, 4, 4, 6),
        timestep=torch.full((1, 3), 500.0),
        r_timestep=torch.full((1, 3), 400.0),
        encoder_hidden_states=_noise(1, 7, 16),
        chunk_partition=[1, 1, 1],
    )


def chronoedit() -> Any:
    """ChronoEdit: Wan image-to-video, whose frames lead from a picture to the edited one."""
    return awake(
        "ChronoEditTransformer3DModel", **WAN, rope_max_seq_len=32, image_dim=8, added_kv_proj_dim=24
    )


def run_chronoedit(model: Any, **changes: Any) -> Tensor:
    """The transformer takes it for granted that the text has 512 tokens."""
    return bare(
        model,
        hidden_states=_noise(1, 4, 2, 4, 6),
        timestep=_NOW,
        encoder_hidden_states=_noise(1, 512, 16),
        encoder_hidden_states_image=_noise(1, 257, 8),
    )


def consisid() -> Any:
    """ConsisID: CogVideoX with a face shown to it by attention that is written out."""
    return awake(
        "ConsisIDTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=2,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        max_text_seq_length=7,
        is_train_face=True,
        cross_attn_interval=1,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        LFE_id_dim=4,
        LFE_vit_dim=4,
        LFE_depth=5,
        LFE_dim_head=4,
        LFE_num_heads=2,
        LFE_num_id_token=1,
        LFE_num_querie=2,
        LFE_output_dim=10,
        LFE_ff_mult=1,
    )


def run_consisid(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        hidden_states=_noise(1, 3, 4, 4, 6),
        encoder_hidden_states=_noise(1, 7, 16),
        timestep=_NOW,
        id_cond=_noise(1, 4),
        id_vit_hidden=[_noise(1, 3, 4, seed=seed) for seed in range(5)],
    )


UNET3D = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
    "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
    "sample_size": 8,
}


def i2vgen() -> Any:
    """I2VGen-XL: text, latents of a picture and its features as keys."""
    return awake("I2VGenXLUNet", **UNET3D, num_attention_heads=2)


def run_i2vgen(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        sample=_noise(1, 4, 3, 8, 8),
        timestep=_NOW,
        fps=torch.tensor([8]),
        image_latents=_noise(1, 4, 3, 8, 8, seed=2),
        image_embeddings=_noise(1, 1, 16, seed=3),
        encoder_hidden_states=_noise(1, 7, 16),
    )


def sana_video() -> Any:
    """Sana-Video: linear attention among the tokens of the video."""
    return awake(
        "SanaVideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
    )


def run_sana_video(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        hidden_states=_noise(1, 4, 3, 4, 6),
        timestep=_NOW,
        encoder_hidden_states=_noise(1, 7, 16),
        encoder_attention_mask=_PADDED,
    )


def alone(name: str, title: str, build: Any, play: Any, needs: str | None, **facts: Any) -> Specimen:
    """A denoiser alone."""
    usual: dict[str, Any] = {"group": "video", "segments": ("video", "text"), "guidance": "none"}
    usual |= dict.fromkeys(("words", "roles", "two", "other", "off")) | {"whole": False}
    if needs is not None:
        usual["needs"] = (needs,)
    return Specimen(name=name, title=title, build=build, run=play, **{**usual, **facts})


RECENT_VIDEO: tuple[Specimen, ...] = (
    alone(
        "motif_video",
        "Motif-Video",
        motif,
        run_motif,
        "MotifVideoTransformer3DModel",
        segments=("video", "image", "text", "encoded"),
        # What asks the text is made of the attention's own output, which the probe replaces by zeros.
        names={"image_embeds": "image", "register": "video"},
        finer={"encoded": "video"},
    ),
    alone(
        "minimax_h3",
        "MiniMax H3",
        minimax_h3,
        run_minimax_h3,
        "MiniMaxH3Transformer3DModel",
        segments=("text", "audio", "video"),
        names={"image": "video", "audio_hidden_states": "audio"},
        grid=False,
    ),
    alone(
        "anyflow",
        "AnyFlow",
        anyflow,
        run_anyflow,
        "AnyFlowTransformer3DModel",
        segments=("video", "image", "text"),
        names={"encoder_hidden_states_image": "image"},
    ),
    alone(
        "chronoedit",
        "ChronoEdit",
        chronoedit,
        run_chronoedit,
        "ChronoEditTransformer3DModel",
        segments=("video", "image", "text"),
        names={"encoder_hidden_states_image": "image"},
    ),
    alone(
        "consisid",
        "ConsisID",
        consisid,
        run_consisid,
        None,
        sites="*.attn1",
        refused="diffusers has no SDPA path for this module",
        # The face is mixed into the video between the blocks.
        mixed=True,
    ),
    alone(
        "i2vgen_xl",
        "I2VGen-XL",
        i2vgen,
        run_i2vgen,
        None,
        segments=("video", "text", "reference", "image_embed"),
        names={"image_latents": "reference", "image_embeddings": "image_embed"},
        mixed=True,
    ),
    alone(
        "sana_video",
        "Sana-Video",
        sana_video,
        run_sana_video,
        "SanaVideoTransformer3DModel",
        segments=("text",),
        sites="*.attn2",
        refused="never forms softmax weights",
    ),
)
