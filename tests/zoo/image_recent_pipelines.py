"""Tiny pipelines of image models of 2025 and 2026, and Kandinsky 3."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from tests import tiny
from torch import Tensor

from . import image_recent as bare
from .encoders import WIDTH, byte_tokenizer, qwen_tokenizer, qwen_vl3, smollm3


def _qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False]
    )


def _flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        sample_size=32,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def krea2() -> Any:
    """Krea 2: the prompt is padded before the tail of its chat template, and three layers of the encoder are
    used."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = bare.krea2()
    pipe = diffusers.Krea2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_qwen_vae(),
        text_encoder=qwen_vl3(tokenizer).model,
        tokenizer=tokenizer,
        transformer=transformer,
        text_encoder_select_layers=(0, 1, 2),
    )
    # The released tokenizer spells the head of the template in 34 tokens, ours in one per byte.
    pipe.prompt_template_encode_prefix = "<|im_start|>system\nDescribe:<|im_end|>\n<|im_start|>user\n"
    pipe.prompt_template_encode_start_idx = len(tokenizer(pipe.prompt_template_encode_prefix).input_ids)
    pipe.prompt_template_encode_num_suffix_tokens = len(
        tokenizer(pipe.prompt_template_encode_suffix).input_ids
    )
    return tiny._finish(pipe, transformer)


class Processor:
    """The part of the processor of Qwen3-VL that reads text; the one of transformers needs torchvision."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: Any, images: None = None, **options: Any) -> Any:
        """Ids and mask of chat turns."""
        return self.tokenizer(text, **options)

    def apply_chat_template(self, turns: Any, tokenize: bool = True, **options: Any) -> Any:
        """Ids of turns, without the assistant's; or as one text."""
        if not tokenize:
            return self.tokenizer.apply_chat_template(turns, tokenize=False, **options)
        said = [f"<|im_start|>{turn['role']}\n{turn['content'][0]['text']}<|im_end|>\n" for turn in turns]
        return self.tokenizer(said).input_ids


def qwen_image21() -> Any:
    """Qwen-Image 2.1: what the text and pictures are is kept after the first step."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(
        "<|endoftext|>", eos="<|im_end|>", others=("<|im_start|>", "<|image_pad|>"), padding_side="right"
    )
    transformer = bare.qwen_image21()
    pipe = diffusers.QwenImage21Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLQwenImage21(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
        ),
        text_encoder=qwen_vl3(tokenizer),
        processor=Processor(tokenizer),
        transformer=transformer,
    )
    return tiny._finish(pipe, transformer)


def ideogram4() -> Any:
    """Ideogram 4: a second denoiser makes the side without a prompt; 13 layers of the encoder are used."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("m.content", "m.content[0].text")
    transformer = bare.ideogram4(llm_features_dim=13 * WIDTH)
    unguided = bare.ideogram4(llm_features_dim=13 * WIDTH)
    pipe = diffusers.Ideogram4Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_flux2_vae(),
        text_encoder=qwen_vl3(tokenizer, layers=36).model,
        tokenizer=tokenizer,
        transformer=transformer,
        unconditional_transformer=unguided,
    )
    return tiny._finish(pipe, transformer)


def fibo() -> Any:
    """Bria Fibo: each block takes another layer of SmolLM3."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer("<|im_end|>", eos="<|im_end|>", others=("<|im_start|>",), padding_side="right")
    transformer = bare.fibo(joint_attention_dim=2 * WIDTH, text_encoder_dim=WIDTH)
    pipe = diffusers.BriaFiboPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            scale_factor_spatial=16,
        ),
        text_encoder=smollm3(tokenizer),
        tokenizer=tokenizer,
    )
    return tiny._finish(pipe, transformer)


def fibo2() -> Any:
    """Bria Fibo 2: layers of Qwen3-VL for the learned tokens, others for each block that reads the text."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = bare.fibo2(cap_feat_dim=2 * WIDTH, gist_min_text_len=20, gist_max_text_len=24)
    pipe = diffusers.BriaFibo2Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_flux2_vae(),
        text_encoder=qwen_vl3(tokenizer),
        processor=Processor(tokenizer),
    )
    pipe.text_encoder_out_layers = ((0, 1), (1, 2))
    return tiny._finish(pipe, transformer)


def kandinsky3() -> Any:
    """Kandinsky 3: T5 without its padding but for one token."""
    torch.manual_seed(0)
    unet = bare.kandinsky3(encoder_hid_dim=32)
    movq = diffusers.VQModel(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        num_vq_embeddings=8,
        norm_num_groups=4,
        vq_embed_dim=4,
    )
    pipe = diffusers.Kandinsky3Pipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=tiny.t5_encoder(32),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(),
        movq=movq,
    )
    return tiny._finish(pipe, unet)


def flux3() -> Any:
    """FLUX.3: a modular pipeline, whose guider hands out the sides of guidance; without the step that writes
    the prompt anew."""
    from diffusers.modular_pipelines.flux3.modular_blocks_flux3 import Flux3AutoBlocks

    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    transformer = bare.flux3(joint_attention_dim=2 * WIDTH)
    blocks = Flux3AutoBlocks()
    blocks.sub_blocks.pop("prompt_upsampler")
    pipe = blocks.init_pipeline()
    pipe.update_components(
        text_encoder=qwen_vl3(tokenizer),
        tokenizer=Processor(tokenizer),
        vae=_flux2_vae(),
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    return tiny._finish(pipe, transformer)


def picture() -> Any:
    """A picture to look at."""
    from PIL import Image

    return Image.effect_mandelbrot((16, 16), (-2, -1, 1, 1), 20).convert("RGB")


def run_flux3(pipe: Any, **changes: Any) -> Tensor:
    """Two steps for "a cat" next to a picture, as latents."""
    given = {"prompt": "a cat", "height": 16, "width": 16, "num_inference_steps": 2, **changes}
    found: Tensor = pipe(
        image=picture(),
        text_encoder_out_layers=(0, 1),
        generator=torch.Generator().manual_seed(0),
        output="latents",
        **given,
    )
    return found


def prior() -> Any:
    """The prior of Kandinsky 2.2: CLIP's text becomes the embedding of an image."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    sees = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=16,
    )
    denoiser = bare.prior()
    pipe = diffusers.KandinskyV22PriorPipeline(
        prior=denoiser,
        image_encoder=CLIPVisionModelWithProjection(sees),
        text_encoder=tiny.clip_encoder(),
        tokenizer=tiny.clip_tokenizer(),
        scheduler=diffusers.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8),
    )
    return tiny._finish(pipe, denoiser)


def run_prior(pipe: Any, **changes: Any) -> Tensor:
    """Two steps for "a cat", as the embedding of an image."""
    given = {"prompt": "a cat", "num_inference_steps": 2, **changes}
    found: Tensor = pipe(generator=torch.Generator().manual_seed(0), output_type="pt", **given).image_embeds
    return found
