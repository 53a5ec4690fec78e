"""Tiny random text encoders of the kinds diffusion models read, and tokenizers that know single bytes.

The tokenizers have the special marks, the padding side and the chat template of the released ones, so that
what a pipeline drops, keeps and pads is what it drops, keeps and pads for its users.
"""

from __future__ import annotations

from typing import Any

import torch
from tests import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    UMT5Config,
    UMT5EncoderModel,
)

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
"""The chat template of the Qwen family."""
WIDTH = 16
"""Features per token of every tiny language model here."""


def byte_tokenizer(
    pad: str, *, bos: str | None = None, eos: str | None = None, others: tuple[str, ...] = (), **options: Any
) -> Any:
    """One token per byte; a begin mark is put before, an end mark (with `append_eos=True`) behind a text."""
    append_eos = options.pop("append_eos", False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({piece: index for index, piece in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    marks = {name: mark for name, mark in (("bos_token", bos), ("eos_token", eos)) if mark}
    options.setdefault("model_input_names", ["input_ids", "attention_mask"])
    found = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=pad, **marks, **options)
    found.add_special_tokens({"additional_special_tokens": list(others)})
    around = [bos] * bool(bos) + ["$A"] + [eos] * append_eos
    if len(around) > 1:
        ids = [(mark, found.convert_tokens_to_ids(mark)) for mark in around if mark != "$A"]
        found.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(str(part) for part in around), special_tokens=ids
        )
    return found


def qwen_tokenizer() -> Any:
    """Marks of Qwen2 and Qwen3: no begin mark, turns in marks, padding on the right."""
    others = ("<|im_start|>", "<think>", "</think>")
    found = byte_tokenizer("<|endoftext|>", eos="<|im_end|>", others=others, padding_side="right")
    found.chat_template = CHAT
    return found


def gemma_tokenizer() -> Any:
    """Marks of Gemma: a begin mark, no end mark behind a prompt."""
    return byte_tokenizer("<pad>", bos="<bos>", eos="<eos>")


def llama_tokenizer() -> Any:
    """Marks of Llama 3."""
    return byte_tokenizer("<|eot_id|>", bos="<|begin_of_text|>", eos="<|eot_id|>", model_max_length=64)


def umt5_tokenizer() -> Any:
    """Marks of AuraFlow's tokenizer: an end mark behind the prompt, padding behind that."""
    return byte_tokenizer("<pad>", eos="</s>", append_eos=True, padding_side="right")


def glm_tokenizer() -> Any:
    """Marks of GLM-4: two marks before the text, padding on the left."""
    found = byte_tokenizer(
        "<|endoftext|>", eos="<|endoftext|>", others=("[gMASK]", "<sop>"), padding_side="left"
    )
    ids = [(mark, found.convert_tokens_to_ids(mark)) for mark in ("[gMASK]", "<sop>")]
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=ids
    )
    return found


def _sizes(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }


def qwen3(tokenizer: Any) -> Any:
    """Text encoder of FLUX.2 Klein and Z-Image."""
    return Qwen3ForCausalLM(Qwen3Config(**_sizes(tokenizer), head_dim=8)).eval()


def qwen_vl(tokenizer: Any) -> Any:
    """Text encoder of QwenImage."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    text = {**_sizes(tokenizer), "rope_scaling" if tiny.OLDER else "rope_parameters": rope}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    # No token here stands for a picture; older versions of transformers want to know which would.
    marks = dict.fromkeys(("vision_start_token_id", "vision_end_token_id", "image_token_id"), len(tokenizer))
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def gemma2(tokenizer: Any) -> Any:
    """Text encoder of Lumina2 and Sana."""
    return Gemma2Model(Gemma2Config(**_sizes(tokenizer), head_dim=8)).eval()


def llama(tokenizer: Any) -> Any:
    """Text encoder of HiDream."""
    return LlamaForCausalLM(LlamaConfig(**_sizes(tokenizer))).eval()


def glm(tokenizer: Any) -> Any:
    """Text encoder of CogView4."""
    sizes = {**_sizes(tokenizer), "head_dim": 8, "pad_token_id": tokenizer.pad_token_id}
    return GlmModel(GlmConfig(**sizes)).eval()


def umt5(tokenizer: Any) -> Any:
    """Text encoder of AuraFlow."""
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), is_gated_act=True, **sizes)).eval()


def seeded(make: Any, *args: Any) -> Any:
    """Build something whose random weights depend on nothing."""
    torch.manual_seed(0)
    return make(*args)


def qwen_vl3(tokenizer: Any, layers: int = 2) -> Any:
    """Text encoder of Krea 2, Ideogram 4 and Qwen-Image 2.1; older versions of transformers have none."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 1e4}
    text = {**_sizes(tokenizer), "num_hidden_layers": layers, "head_dim": 8, "rope_parameters": rope}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    marks = dict.fromkeys(
        ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"), len(tokenizer)
    )
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **marks)
    return Qwen3VLForConditionalGeneration(config).eval()


def smollm3(tokenizer: Any) -> Any:
    """Text encoder of Bria Fibo."""
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    marks = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    return SmolLM3ForCausalLM(SmolLM3Config(**_sizes(tokenizer), **marks)).eval()
