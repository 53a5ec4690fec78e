"""Audio models."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AutoencoderKL,
    AutoencoderOobleck,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from tests import older, tiny
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from . import encoders
from .bare_video import _noise, awake, bare
from .recent_video import alone
from .specimen import Specimen

_PADDED = torch.tensor([[1] * 5 + [0] * 2])
_NOW = torch.tensor([0.5])


def ace_step() -> Any:
    """ACE-Step: keys shared by two heads, every other layer looks at near tokens only. Without a condition it
    is given a learned vector in the place of each token."""
    transformer = awake(
        "AceStepTransformer1DModel",
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        in_channels=12,
        audio_acoustic_hidden_dim=4,
        sliding_window=2,
    )
    torch.manual_seed(0)
    tokenizer = encoders.qwen_tokenizer()
    condition = diffusers.AceStepConditionEncoder(
        hidden_size=16,
        intermediate_size=32,
        text_hidden_dim=encoders.WIDTH,
        timbre_hidden_dim=4,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=4,
        downsampling_ratios=[1, 2],
        channel_multiples=[1, 2],
        decoder_channels=4,
        decoder_input_channels=4,
        sampling_rate=16,
    )
    pipe = diffusers.AceStepPipeline(
        vae=vae,
        text_encoder=encoders.qwen3(tokenizer).model,
        tokenizer=tokenizer,
        transformer=transformer,
        condition_encoder=condition,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )
    return tiny._finish(pipe, transformer)


def run_ace_step(pipe: Any, **changes: Any) -> Tensor:
    """Ten latents in five tokens."""
    given = {
        "prompt": "a cat",
        "lyrics": "la la",
        "num_inference_steps": 2,
        "audio_duration": 1.25,
        "guidance_scale": 3.0,
        **changes,
    }
    return pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).audios


def longcat_audio() -> Any:
    """LongCat AudioDiT: the text is convolved first, with zeros in the place of its padding."""
    return awake(
        "LongCatAudioDiTTransformer", dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=16, latent_dim=4
    )


def run_longcat_audio(model: Any, **changes: Any) -> Tensor:
    return bare(
        model,
        hidden_states=_noise(1, 6, 4),
        encoder_hidden_states=_noise(1, 7, 16),
        encoder_attention_mask=_PADDED.bool(),
        timestep=_NOW,
        attention_mask=torch.ones(1, 6, dtype=torch.bool),
        latent_cond=_noise(1, 6, 4, seed=2),
    )


def minimax_music() -> Any:
    """MiniMax Music 3: a token for the timestep before the audio, the condition in its channels."""
    return awake(
        "MiniMaxMusic3Transformer1DModel",
        in_channels=4,
        condition_dim=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        ff_inner_dim=16,
        rotary_dim=4,
        fourier_embedding_dim=8,
    )


def run_minimax_music(model: Any, **changes: Any) -> Tensor:
    return bare(
        model, hidden_states=_noise(1, 4, 6), timestep=_NOW, encoder_hidden_states=_noise(1, 6, 8, seed=2)
    )


def _clap(tokenizer: Any) -> ClapModel:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = ClapTextConfig(
        **sizes,
        vocab_size=len(tokenizer),
        projection_dim=8,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=32,
    )
    audio = ClapAudioConfig(
        spec_size=8,
        window_size=4,
        num_mel_bins=8,
        intermediate_size=16,
        hidden_size=8,
        depths=[1, 1],
        num_hidden_layers=2,
        num_attention_heads=[1, 1],
        projection_dim=8,
        patch_size=2,
        patch_stride=2,
        patch_embeds_hidden_size=4,
    )
    return ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8))


def audioldm2() -> AudioLDM2Pipeline:
    """AudioLDM 2: a language model writes eight vectors from CLAP's and T5's."""
    unet = audioldm2_unet(cross_attention_dim=((None, 8, 32),) * 2)
    torch.manual_seed(0)
    marks = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: number for number, piece in enumerate([*marks, *alphabet])}
    if tiny.OLDER:
        roberta = older.roberta_tokenizer(vocab, model_max_length=20)
    else:
        roberta = RobertaTokenizer(vocab=vocab, merges=[], model_max_length=20)
    t5 = tiny.t5_tokenizer()
    t5.model_max_length = tiny.T5_TEXT
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=16000,
        upsample_initial_channel=16,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        normalize_before=False,
    )
    language = GPT2Config(n_embd=8, n_head=2, n_layer=1, n_positions=64, vocab_size=40)
    language.max_new_tokens = 4
    pipe = AudioLDM2Pipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8),
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        ),
        text_encoder=_clap(roberta),
        text_encoder_2=tiny.t5_encoder(),
        projection_model=AudioLDM2ProjectionModel(
            text_encoder_dim=8, text_encoder_1_dim=32, langauge_model_dim=8
        ),
        language_model=GPT2LMHeadModel(language),
        tokenizer=roberta,
        tokenizer_2=t5,
        feature_extractor=ClapFeatureExtractor(feature_size=8, hop_length=80),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        vocoder=SpeechT5HifiGan(vocoder),
    )
    return tiny._finish(pipe, unet)


def run_audioldm2(pipe: Any, **changes: Any) -> Tensor:
    given = {"prompt": "a cat", "num_inference_steps": 2, "audio_length_in_s": 0.004, **changes}
    return pipe(generator=torch.Generator().manual_seed(0), output_type="latent", **given).audios


def audioldm2_unet(**options: Any) -> Any:
    """AudioLDM 2: three transformers in turn, without a condition, with the language model's, with T5's."""
    return awake(
        "AudioLDM2UNet2DConditionModel",
        **{
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "cross_attention_dim": ((None, 8, 16),) * 2,
            "sample_size": 8,
            "attention_head_dim": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            **options,
        },
    )


_TWO = {"prompt": ["a cat", "an owl"], "lyrics": ["la la", "la"]}


def _known(name: str, title: str, build: Any, play: Any, needs: str | None, **facts: Any) -> Specimen:
    return alone(name, title, build, play, needs, **{"group": "audio", **facts})


AUDIO: tuple[Specimen, ...] = (
    Specimen(
        name="ace_step",
        title="ACE-Step 1.5",
        group="audio",
        build=ace_step,
        run=run_ace_step,
        needs=("AceStepPipeline",),
        guidance="one batch",
        order=("cond", "uncond"),
        segments=("audio", "condition"),
        names={"text": "condition"},
        # What goes before is mixed into the latents.
        mixed=True,
        two=_TWO,
        off={"guidance_scale": 1.0, **_TWO},
    ),
    _known(
        "longcat_audio",
        "LongCat AudioDiT",
        longcat_audio,
        run_longcat_audio,
        "LongCatAudioDiTTransformer",
        segments=("audio", "text", "padding"),
        mixed=True,
    ),
    _known(
        "minimax_music",
        "MiniMax Music 3",
        minimax_music,
        run_minimax_music,
        "MiniMaxMusic3Transformer1DModel",
        segments=("timestep", "audio"),
        names={"register": "timestep"},
        mixed=True,
    ),
    Specimen(
        name="audioldm2",
        title="AudioLDM 2",
        group="audio",
        build=audioldm2,
        run=run_audioldm2,
        guidance="one batch",
        segments=("audio", "generated", "text"),
        names={"image": "audio", "text": "generated", "encoder_hidden_states_1": "text"},
        words="acat",
        off={"guidance_scale": 1.0, "num_waveforms_per_prompt": 2},
    ),
)
