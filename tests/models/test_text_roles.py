"""Roles of prompt tokens: templates around the user's words are found by the words themselves."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny
from tests.tiny import clip_tokenizer, t5_tokenizer, tiny_sd3
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from sinkscope.models import observe
from sinkscope.models._text_roles import text_roles

MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def chat_tokenizer() -> Any:
    """Byte-level, with the turn marks, the padding and the template of the Qwen family."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE({piece: index for index, piece in enumerate(alphabet)}, [])
    raw = Tokenizer(model)
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=MARKS[0], eos_token=MARKS[2])
    found.add_special_tokens({"additional_special_tokens": list(MARKS[1:2] + MARKS[3:])})
    found.chat_template = CHAT
    return found


CHATS = [chat_tokenizer()]


@pytest.fixture(scope="module")
def chat() -> Any:
    return CHATS[0]


def wrapped(
    chat: Any, text: str, *, system: str = "", room: int = 8, left: bool = False
) -> tuple[list[int], list[bool]]:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    ids = chat(chat.apply_chat_template(messages, tokenize=False)).input_ids
    padding = [chat.pad_token_id] * room
    mask = [True] * len(ids), [False] * room
    return (padding + ids, mask[1] + mask[0]) if left else (ids + padding, mask[0] + mask[1])


def spelled(tokenizer: Any, ids: list[int], roles: list[Any], role: str) -> str:
    return str(tokenizer.decode([i for i, r in zip(ids, roles, strict=True) if r == role]))


words = st.text(alphabet=string.ascii_letters + " .,-éü猫", min_size=1, max_size=20).map(
    lambda text: " ".join(text.split())
)


@settings(max_examples=60, deadline=None)
@given(text=words.filter(bool), system=st.sampled_from(["", "Describe the image."]), left=st.booleans())
def test_the_words_of_a_chat_are_the_users(text: str, system: str, left: bool) -> None:
    chat = CHATS[0]
    ids, mask = wrapped(chat, text, system=system, left=left)
    for given_mask in (mask, None):
        roles = text_roles(chat, ids, given_mask, [text])
        assert spelled(chat, ids, roles, "content") == text
        assert [r == "pad" for r in roles] == [not keep for keep in mask]
        assert roles.count("eos") == 1 and ids[roles.index("eos")] == chat.eos_token_id
        assert roles[roles.index("eos") - 1] == "content"
        turns = 2 if system else 1
        assert spelled(chat, ids, roles, "template").count("<|im_start|>") == turns + 1
        assert set(roles) == {"content", "template", "eos", "pad"}


def test_a_word_of_the_template_may_be_the_prompt(chat: Any) -> None:
    for text in ("user", "assistant", "image", "a"):
        ids, mask = wrapped(chat, text, system="Describe the image.")
        roles = text_roles(chat, ids, mask, [text])
        place = roles.index("content")
        assert spelled(chat, ids, roles, "content") == text
        assert chat.decode(ids[:place]).endswith("<|im_start|>user\n")


def test_without_the_words_only_marks_are_template(chat: Any) -> None:
    ids, mask = wrapped(chat, "a cat", system="Describe.")
    for texts in ([], ["something else"]):
        roles = text_roles(chat, ids, mask, texts)
        assert spelled(chat, ids, roles, "template") == "<|im_start|><|im_end|>" * 2 + "<|im_start|>"
        assert "content" not in roles and None in roles and roles[-1] == "pad"
    assert "eos" not in roles, "two turns end with the same mark"


def test_an_empty_prompt_leaves_template_alone(chat: Any) -> None:
    ids, mask = wrapped(chat, "")
    roles = text_roles(chat, ids, mask, [""])
    assert set(roles[: len(ids) - 8]) == {"template", "eos"} and set(roles[-8:]) == {"pad"}


def test_the_longest_text_is_meant_and_a_cut_one_is_recognised(chat: Any) -> None:
    text = "two cats under a tree"
    ids, mask = wrapped(chat, text)
    assert spelled(chat, ids, text_roles(chat, ids, mask, ["cats", text]), "content") == text
    cut = chat(chat.apply_chat_template([{"role": "user", "content": text}], tokenize=False)).input_ids[:22]
    roles = text_roles(chat, cut, [True] * 22, [text])
    assert spelled(chat, cut, roles, "content") == "two cats under a"
    assert set(roles) == {"template", "content"}


@pytest.mark.parametrize("make", [clip_tokenizer, lambda: clip_tokenizer("!"), t5_tokenizer])
@pytest.mark.parametrize("text", ["a cat", "", "x!", "a very long prompt indeed", "A  CAT"])
def test_a_bare_prompt_has_no_template(make: Callable[[], Any], text: str) -> None:
    tokenizer = make()
    given_ = tokenizer(text, padding="max_length", max_length=12, truncation=True)
    known = text_roles(tokenizer, given_.input_ids, None, [text, "blurry"])
    assert "template" not in known and None not in known
    assert known == text_roles(tokenizer, given_.input_ids, None), "nor does the text change anything"


def test_a_system_prompt_without_marks_is_template() -> None:
    tokenizer = t5_tokenizer()
    ids = tokenizer("be nice. a cat", padding="max_length", max_length=20).input_ids
    roles = text_roles(tokenizer, ids, None, ["a cat", ""])
    content = [tokenizer.convert_ids_to_tokens(i) for i, r in zip(ids, roles, strict=True) if r == "content"]
    assert "".join(content).strip("▁") == "a▁cat"
    assert roles[0] == "template" and roles[-1] == "pad" and roles.count("eos") == 1


def test_pipelines_hand_over_what_the_user_wrote() -> None:
    pipe = tiny_sd3()
    with observe(pipe, layers=[0]) as seen, observe(pipe, layers=[1]):
        tiny.run(pipe, prompt=["a cat", "x!"], negative_prompt="no", output_type="latent")
    sinks = seen.sinks(keys_per_head=42).query("step == 0 and head == 0 and segment == 'text'")
    counted = sinks[sinks["position"] < tiny.TEXT].groupby(["branch", "unit"])["role"].value_counts()
    # CLIP here has a token per letter.
    assert counted["cond", 0, "content"] == 4 and counted["cond", 1, "content"] == 2
    assert counted["uncond", 0, "content"] == 2 and "template" not in set(sinks["role"])


def tiny_klein() -> Any:
    """FLUX.2 Klein: its prompt is a chat turn for Qwen3; no table of ours names it."""
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    encoder = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=8,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
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
    pipe = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(encoder),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    return tiny._finish(pipe, transformer)


def test_a_family_with_a_chat_template_end_to_end() -> None:
    pipe = tiny_klein()
    with observe(pipe, layers=[0]) as seen:
        pipe(
            prompt="a cat",
            height=8,
            width=8,
            num_inference_steps=1,
            guidance_scale=2.0,
            max_sequence_length=40,
            text_encoder_out_layers=(0, 1),
            output_type="latent",
        )
    sinks = seen.sinks(keys_per_head=56).query("site == 'transformer_blocks.0.attn' and segment == 'text'")
    said = sinks[sinks["head"] == 0].sort_values("key")
    cond, uncond = (said[said["branch"] == name] for name in ("cond", "uncond"))
    assert "".join(cond.loc[cond["role"] == "content", "token"]) == "aĠcat"
    assert list(cond["role"].iloc[:7]) == ["template"] * 6 + ["content"]
    assert list(cond.loc[cond["role"] == "eos", "position"]) == [11]
    assert set(uncond["role"]) == {"template", "eos", "pad"}, "the empty prompt has no words"
