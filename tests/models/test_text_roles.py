"""Roles of prompt tokens: templates around the user's words are found by the words themselves."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny
from tests.tiny import clip_tokenizer, t5_tokenizer, tiny_sd3
from tests.zoo.encoders import glm_tokenizer, qwen_tokenizer
from tests.zoo.image_crossed import bert_tokenizer
from tests.zoo.image_pipelines import flux2, run, z_image
from tests.zoo.records import having

from sinkscope.models import AttentionCall, Run, Session, observe
from sinkscope.models._text_roles import text_roles

CHATS = [qwen_tokenizer()]


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


@having("Flux2KleinPipeline")
def test_a_family_with_a_chat_template_end_to_end() -> None:
    pipe = flux2()
    with observe(pipe, layers=[0]) as seen:
        run(
            pipe,
            height=8,
            width=8,
            num_inference_steps=1,
            max_sequence_length=40,
            text_encoder_out_layers=(0, 1),
        )
    sinks = seen.sinks(keys_per_head=56).query("site == 'transformer_blocks.0.attn' and segment == 'text'")
    said = sinks[sinks["head"] == 0].sort_values("key")
    cond, uncond = (said[said["branch"] == name] for name in ("cond", "uncond"))
    assert "".join(cond.loc[cond["role"] == "content", "token"]) == "aĠcat"
    assert list(cond["role"].iloc[:7]) == ["template"] * 6 + ["content"]
    assert list(cond.loc[cond["role"] == "eos", "position"]) == [11]
    assert set(uncond["role"]) == {"template", "eos", "pad"}, "the empty prompt has no words"


def negative_roles(pipe: Any, **changes: Any) -> list[Any]:
    """Roles of the text of the unguided row of the joint blocks."""
    found: list[Any] = []

    def handler(call: AttentionCall, run: Run) -> Any:
        for info, tokens in zip(call.rows, call.tokens(), strict=True):
            if call.site.layer == 0 and info.branch == "uncond":
                found[:] = [token.role for token in tokens if token.segment == "text"]
        return run(call)

    with Session(pipe, handler):
        run(pipe, num_inference_steps=1, max_sequence_length=64, **changes)
    return found


@having("ZImagePipeline")
def test_a_negative_prompt_nobody_gave_is_empty() -> None:
    assert set(negative_roles(z_image())) == {"template", "eos"}
    assert negative_roles(z_image(), negative_prompt="no").count("content") == 2
    # The second text is read as such even when it is the first one again.
    assert negative_roles(z_image(), negative_prompt="a cat").count("content") == 5


def test_padding_on_the_left_with_the_end_mark() -> None:
    tokenizer = glm_tokenizer()
    ids = [tokenizer.pad_token_id] * 3 + tokenizer("a cat").input_ids
    roles = text_roles(tokenizer, ids, None, ["a cat", ""])
    assert roles == ["pad"] * 3 + ["template"] * 2 + ["content"] * 5
    for room in (0, 1, 3):
        empty = [tokenizer.pad_token_id] * room + tokenizer("").input_ids
        assert text_roles(tokenizer, empty, None, [""]) == ["pad"] * room + ["template"] * 2
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_bert_begins_and_ends_with_marks_of_its_own() -> None:
    tokenizer = bert_tokenizer()
    given_ = tokenizer("a cat", padding="max_length", max_length=9)
    for mask in (None, [bool(keep) for keep in given_.attention_mask]):
        roles = text_roles(tokenizer, given_.input_ids, mask, ["a cat"])
        assert roles == ["bos", *["content"] * 4, "eos", *["pad"] * 3]
