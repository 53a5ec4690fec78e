"""Language models that write: keys in a cache, beams, texts that have ended, grouped heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.models.guard import state
from tests.models.texts import Numbers, generate, logits, record
from tests.zoo.language import (
    BOS,
    EOS,
    PAD,
    WORDS,
    gemma2,
    gpt2,
    ids,
    llama,
    padded,
    qwen3,
)
from torch import Tensor

from sinkscope.attention import Keys, Mask, RandomKeys, TopMass
from sinkscope.errors import UsageError
from sinkscope.models import AttentionCall, Edit, Session, intervene, observe

# ---- generate


def test_generate_is_one_generation_of_forward_calls() -> None:
    model = llama()
    plain, before = generate(model), state(model)
    with observe(model, layers=1, tokenizer=Numbers()) as seen:
        assert torch.equal(generate(model), plain)
        assert torch.equal(generate(model), plain)
    assert state(model) == before
    assert seen.steps == (0, 1, 2)
    mass = seen.mass()
    assert mass.shape == (3, 4, 4, 9), "units are counted through both generations"
    assert torch.equal(mass[:, :2].nan_to_num(-1), mass[:, 2:].nan_to_num(-1))
    for step in range(3):
        keys = 7 + step
        assert torch.isnan(mass[step, :, :, keys:]).all()
        torch.testing.assert_close(mass[step, ..., :keys].sum(-1), torch.ones(4, 4), rtol=0, atol=1e-5)
    found = seen.sinks(keys_per_head=7)
    for row in found[found.step == 2].itertuples():
        assert row.token == str(int(plain[row.unit % 2, row.key])), "also of tokens that were generated"


def test_mass_while_decoding_is_that_of_the_whole_text_without_a_cache() -> None:
    model = qwen3()
    with observe(model, layers=1) as seen:
        text = generate(model)
    with observe(model, layers=1) as whole:
        calls = record(model, lambda: logits(model, input_ids=text[:, :9]))
    last = calls[1]
    weights = torch.softmax(
        last.q[:, :, 8:] @ last.k.repeat_interleave(4 // last.k.shape[1], 1).mT * last.scale, -1
    )
    torch.testing.assert_close(seen.mass()[2], weights[:, :, 0], rtol=1e-4, atol=1e-5)
    assert whole.mass().shape == (1, 2, 4, 9)


def _decoded(options: dict[str, Any]) -> Iterator[tuple[AttentionCall, list[int], int]]:
    model = llama()
    for call in record(model, lambda: generate(model, **options), tokenizer=Numbers(), sites="*.0.*"):
        for row, tokens in enumerate(call.tokens()):
            yield call, [int(token.text or -1) for token in tokens], row


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}, padded()],
    ids=["greedy", "beams", "several", "padded"],
)
def test_the_cache_holds_the_tokens_it_is_said_to_hold(options: dict[str, Any]) -> None:
    """Keys of the first layer depend on token and position alone, so they tell which token they are."""
    embed, layer = llama().model.embed_tokens, llama().model.layers[0]
    with torch.no_grad():
        values = layer.self_attn.v_proj(layer.input_layernorm(embed.weight)).view(WORDS, 2, 8)
    checked = 0
    for call, tokens, row in _decoded(options):
        # Under a mask the kv heads are repeated.
        seen = call.v[row].transpose(0, 1)[:, :: call.v.shape[1] // 2]
        torch.testing.assert_close(seen, values[tokens], rtol=1e-4, atol=1e-5)
        checked += 1
    assert checked >= 3 * 2


def test_a_cache_filled_before_the_block_has_no_names() -> None:
    model = llama()
    with torch.no_grad():
        cache = model(ids()).past_key_values
    calls = record(model, lambda: model(ids()[:, :1], past_key_values=cache), tokenizer=Numbers())
    tokens = calls[0].tokens()[0]
    assert [token.role for token in tokens[:7]] == [None] * 7 and tokens[7].text == str(BOS)
    embedded = model.model.embed_tokens(ids())
    calls = record(model, lambda: model(inputs_embeds=embedded), tokenizer=Numbers())
    assert {(token.segment, token.text, token.role) for token in calls[0].tokens()[0]} == {
        ("text", None, None)
    }


def test_texts_that_have_ended_are_left_out() -> None:
    """A row that has ended goes on with padding; nothing is measured or edited there."""
    model = llama()
    text = generate(model, max_new_tokens=4, min_new_tokens=4)
    end = int(text[0, 7])
    assert end not in text[1, 7:], "or both would end"
    edit = Edit(RandomKeys(keys_per_head=2, exclude=TopMass(keys_per_head=1)), Mask(), layers=[1])
    options = {"max_new_tokens": 4, "min_new_tokens": 0, "eos_token_id": end}
    with intervene(model, edit, tokenizer=Numbers()) as receipt:
        with observe(model, layers=1, tokenizer=Numbers()) as seen:
            generate(model, **options)
    assert seen.steps == (0, 1, 2, 3)
    assert torch.isnan(seen.mass()).flatten(2).all(-1).tolist() == [
        [False, False],
        [False, False],
        [True, False],
        [True, False],
    ]
    edited = receipt.table().groupby("unit").step.unique()
    assert [list(steps) for steps in edited] == [[0, 1], [0, 1, 2, 3]]


def test_padding_after_the_end_counts_in_no_mean() -> None:
    model = gpt2()
    text = ids()
    text[0, 4:] = torch.tensor([EOS, PAD, PAD])
    mask = torch.ones_like(text)
    mask[0, 5:] = 0
    with observe(model, layers=1) as seen, observe(model, layers=1, queries="text") as same:
        logits(model, input_ids=text, attention_mask=mask)
    with observe(model, layers=1) as alone:
        logits(model, input_ids=text[:1, :5])
    torch.testing.assert_close(seen.mass()[0, 0, :, :5], alone.mass()[0, 0], rtol=1e-4, atol=1e-6)
    assert torch.equal(seen.mass(), same.mass())
    assert seen.mass()[0, 0, :, 5:].max() == 0
    roles = seen.roles()
    assert set(roles.queries) == {"text"}
    assert roles[roles.role == "pad"]["keys"].tolist() == [0], "hidden from every query"


def test_padding_in_front_counts_in_no_mean() -> None:
    """Rows that may attend to nothing: SDPA answers zeros, a plain softmax would answer NaN."""
    for build in (gpt2, qwen3, gemma2):
        model, given = build(), padded()
        place = (
            {} if build is not gpt2 else {"position_ids": (given["attention_mask"].cumsum(-1) - 1).clamp(0)}
        )
        with observe(model, layers=1) as seen:
            logits(model, **given, **place)
        with observe(model, layers=1) as alone:
            logits(model, input_ids=given["input_ids"][:1, 3:])
        torch.testing.assert_close(seen.mass()[0, 0, :, 3:], alone.mass()[0, 0], rtol=1e-4, atol=1e-5)


# ---- grouped heads


def _decode(model: Any, **given: Any) -> Tensor:
    with torch.no_grad():
        first = model(use_cache=True, **given)
        mask = torch.cat([given["attention_mask"], given["attention_mask"][:, -1:]], dim=1)
        second = model(
            first.logits[:, -1:].argmax(-1), attention_mask=mask, past_key_values=first.past_key_values
        )
    found: Tensor = second.logits
    return found


def test_heads_packed_into_the_query_axis_are_heads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers can be told not to pack; everything must be the same then."""
    model, results = qwen3(), []
    edit = Edit(TopMass(keys_per_head=1), Mask(), steps=[1], heads=[0, 3])
    plain = _decode(model, **padded())
    for forced in ("0", "1"):
        monkeypatch.setenv("TRANSFORMERS_SDPA_FORCE_GQA", forced)
        with observe(model, layers=1) as seen:
            watched = _decode(model, **padded())
        with intervene(model, edit) as receipt:
            edited = _decode(model, **padded())
        calls = record(model, lambda: _decode(model, **padded()))
        assert {tuple(call.q.shape[1:3]) for call in calls if call.step == 1} == {(4, 1)}
        assert torch.equal(watched, plain) or forced == "1"
        assert not torch.allclose(edited, watched, atol=1e-3)
        results.append((watched, edited, seen.mass(), receipt.table().mass_before.tolist()))
    for packed, unpacked in zip(*results, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(packed), torch.as_tensor(unpacked), rtol=1e-4, atol=1e-5, equal_nan=True
        )


def test_a_head_that_is_not_edited_keeps_its_bits_when_packed() -> None:
    outputs: dict[str, list[Tensor]] = {"plain": [], "edited": []}

    def keep(name: str) -> Any:
        def handler(call: AttentionCall, run: Any) -> Tensor:
            outputs[name].append(run(call))
            return outputs[name][-1]

        return handler

    model, edit = qwen3(), Edit(Keys((4,)), Mask(), steps=[1], layers=[0], heads=[2])
    with Session(model, keep("plain")):
        _decode(model, **padded())
    with Session(model, keep("edited")), intervene(model, edit):
        _decode(model, **padded())
    # The edit issues its call twice, as it is and edited.
    plain, first, second = outputs["plain"][2], outputs["edited"][2], outputs["edited"][3]
    assert torch.equal(plain, first) and not torch.equal(plain[:, 2], second[:, 2])


# ---- caches of other kinds


def test_a_cache_of_fixed_size_has_room_that_is_no_token() -> None:
    model = llama()
    plain = generate(model)
    with observe(model, layers=0, tokenizer=Numbers()) as seen:
        fixed = generate(model, cache_implementation="static")
    assert torch.equal(plain, fixed)
    tokens = seen.sinks(keys_per_head=7)
    assert set(tokens[tokens.mass > 0].segment) == {"text"}
    assert "mass_unused" in seen.summary() and seen.summary().mass_unused.max() == 0


def test_a_cache_that_drops_tokens_names_those_it_has() -> None:
    model = gemma2(window=4)
    with observe(model, layers=0, tokenizer=Numbers()) as seen:
        text = generate(model)
    found = seen.sinks(keys_per_head=3)
    last = found[found.step == 2]
    assert set(last.position) <= set(range(5, 9))
    for row in last.itertuples():
        assert row.token == str(int(text[row.unit, row.position]))
    with pytest.raises(UsageError, match=r"keys are not the same tokens.*sinks\(\) and summary\(\).*steps="):
        seen.mass()
