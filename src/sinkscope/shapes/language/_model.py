"""The two embedded language models: one architecture, read in two ways.

Both are the Llama of transformers (RMS norms, rotary positions, gated MLP) of the same size. The
autoregressive one is `LlamaForCausalLM` as it is; the masked-diffusion one differs by attending to both sides
and by a mask token (LLaDA, Nie et al. 2025, does the same with a Llama).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


class MaskedDiffusionLM(LlamaForCausalLM):  # type: ignore[misc]
    """A Llama whose tokens attend to both sides; it predicts the tokens that are masked."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.is_causal = False

    def forward(self, input_ids: Tensor, **options: Any) -> Any:
        """Logits `[row, token, word]` of every position, each from all tokens."""
        # A mask of four axes is taken as it is; zeros hide nothing.
        shape = (input_ids.shape[0], 1, input_ids.shape[1], input_ids.shape[1])
        open_mask = torch.zeros(shape, dtype=self.dtype, device=input_ids.device)
        return super().forward(input_ids=input_ids, attention_mask=open_mask, use_cache=False, **options)


def config(words: int, *, width: int = 96, layers: int = 4, heads: int = 4) -> LlamaConfig:
    """Sizes of both models."""
    return LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="sdpa",
    )


KINDS: dict[str, Any] = {"shapes-lm": LlamaForCausalLM, "shapes-mdlm": MaskedDiffusionLM}
"""Class of each embedded language model."""
