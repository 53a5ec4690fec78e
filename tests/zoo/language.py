"""Language models, as bare modules of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from .specimen import Specimen

WORDS = 60
BOS, EOS, PAD, MASK = 0, 1, 2, 3
_MARKS = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
_WIDTHS = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_MARKS, **_WIDTHS, "vocab_size": WORDS, "num_key_value_heads": 2, "head_dim": 8}
# Wide enough a spread that the tokens of a tiny random model attend to each other unevenly.
_SPREAD = {"initializer_range": 0.3, "max_position_embeddings": 64}


def ids(rows: int = 2, tokens: int = 7) -> Tensor:
    """Words of a text after its begin mark."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(MASK + 1, WORDS - 1, (rows, tokens), generator=generator)
    words[:, 0] = BOS
    return words


def padded(rows: int = 2, tokens: int = 7, padding: int = 3) -> dict[str, Tensor]:
    """The same, the first row padded on the left."""
    words = ids(rows, tokens)
    words[0] = words[0].roll(padding)
    words[0, :padding] = PAD
    mask = torch.ones_like(words)
    mask[0, :padding] = 0
    return {"input_ids": words, "attention_mask": mask}


def made(kind: Callable[[Any], PreTrainedModel], config: Any) -> PreTrainedModel:
    """A random model."""
    torch.manual_seed(0)
    return kind(config).eval()


def gpt2() -> GPT2LMHeadModel:
    """GPT-2: learned positions, one kv head per head."""
    return made(
        GPT2LMHeadModel,
        GPT2Config(
            vocab_size=WORDS, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, **_MARKS
        ),
    )


def llama() -> LlamaForCausalLM:
    """Llama: two query heads to a kv head."""
    return made(LlamaForCausalLM, LlamaConfig(**_GROUPED, **_SPREAD))


def qwen3() -> Qwen3ForCausalLM:
    """Qwen3: the same with norms of queries and keys."""
    return made(Qwen3ForCausalLM, Qwen3Config(**_GROUPED, **_SPREAD))


def gemma2(window: int = 32) -> Gemma2ForCausalLM:
    """Gemma 2: capped logits, a sliding window in every second layer; transformers runs it eagerly only."""
    return made(
        Gemma2ForCausalLM,
        Gemma2Config(
            **_GROUPED,
            **_SPREAD,
            sliding_window=window,
            query_pre_attn_scalar=8,
            attn_logit_softcapping=1.5,
            attn_implementation="eager",
        ),
    )


def gpt_oss(window: int = 32) -> GptOssForCausalLM:
    """GPT-OSS: a learned sink logit for every head; transformers runs it eagerly only."""
    model = made(
        GptOssForCausalLM,
        GptOssConfig(
            **_GROUPED,
            **_SPREAD,
            sliding_window=window,
            num_local_experts=2,
            num_experts_per_tok=1,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            attn_implementation="eager",
        ),
    )
    for layer in model.model.layers:
        layer.self_attn.sinks.data = torch.tensor([2.0, 0.0, -1.0, 4.0])
    return model


def llada() -> LlamaForCausalLM:
    """A masked-diffusion language model in the manner of LLaDA: a Llama whose tokens attend to both sides."""
    model = made(LlamaForCausalLM, LlamaConfig(**_GROUPED, **_SPREAD, mask_token_id=MASK))
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    return model


def reads(model: PreTrainedModel, **given: Any) -> Tensor:
    """Logits of a text and of one more token decoded with its cache."""
    with torch.no_grad():
        first = model(use_cache=True, **given)
        mask = given.get("attention_mask")
        mask = None if mask is None else torch.cat([mask, mask[:, -1:]], dim=1)
        token = first.logits[:, -1:].argmax(-1)
        second = model(input_ids=token, attention_mask=mask, past_key_values=first.past_key_values)
    return torch.cat([first.logits, second.logits], dim=1)


def read_plain(model: PreTrainedModel) -> Tensor:
    """`reads` of two texts of the same length."""
    return reads(model, input_ids=ids())


def read_padded(model: PreTrainedModel) -> Tensor:
    """`reads` of two texts, one padded on the left: rows that may attend to nothing."""
    return reads(model, **padded())


def unmask(model: PreTrainedModel) -> Tensor:
    """Two steps of a masked-diffusion model: half of the words are masked, then half of those."""
    words, found = ids(), []
    for masked in (4, 2):
        given = words.clone()
        given[:, -masked:] = MASK
        # A mask of four axes is taken as it is; this one hides nothing.
        everything = torch.ones(len(given), 1, given.shape[1], given.shape[1], dtype=torch.bool)
        with torch.no_grad():
            found.append(model(input_ids=given, attention_mask=everything, use_cache=False).logits)
    return torch.stack(found)


def _language(name: str, title: str, build: Any, run: Any, **facts: Any) -> Specimen:
    facts = {"segments": ("text",), "passes": 2, **facts}
    return Specimen(
        name=name,
        title=title,
        group="language",
        build=build,
        run=run,
        whole=False,
        two=None,
        other=None,
        off=None,
        probed=False,
        **facts,
    )


LANGUAGE: tuple[Specimen, ...] = (
    _language("gpt2", "GPT-2", gpt2, read_padded),
    _language("llama", "Llama", llama, read_plain),
    _language("qwen3", "Qwen3", qwen3, read_padded),
    _language("gemma2", "Gemma 2 (capped logits)", gemma2, read_plain, written_out=True),
    _language(
        "gpt_oss",
        "GPT-OSS (learned sink logits)",
        gpt_oss,
        read_padded,
        written_out=True,
        segments=("text", "sink_logit"),
    ),
    _language("llada", "LLaDA (masked diffusion)", llada, unmask, segments=("text", "masked")),
)
