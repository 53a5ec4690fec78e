"""Language models as bare modules: which token is which key, caches, padding, grouped heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.models.guard import state
from tests.zoo.language import (
    BOS,
    EOS,
    MASK,
    PAD,
    WORDS,
    gemma2,
    gpt2,
    gpt_oss,
    ids,
    llada,
    llama,
    padded,
    qwen3,
    unmask,
)
from tests.zoo.vision import llava, look_and_read
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TextGenerationPipeline,
)

from sinkscope.attention import Keys, Mask, RandomKeys, TopMass
from sinkscope.errors import UsageError
from sinkscope.models import AttentionCall, Edit, Session, intervene, load, observe, sites
from sinkscope.models._sequence import UNKNOWN_ID, Marks, sequence_roles


class Numbers:
    """Spells every token as its id."""

    bos_token_id, eos_token_id, pad_token_id, mask_token_id, unk_token_id = BOS, EOS, PAD, MASK, None
    all_special_ids = (BOS, EOS, PAD, MASK, 59)

    def convert_ids_to_tokens(self, given: list[int]) -> list[str]:
        return [str(token) for token in given]


def words() -> PreTrainedTokenizerFast:
    """A real tokenizer with one word per id."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    names = ["<bos>", "<eos>", "<pad>", "<mask>", *(f"w{number}" for number in range(4, WORDS))]
    built = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    built.pre_tokenizer = WhitespaceSplit()
    marks = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=built, **marks)


def logits(model: Any, **given: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(use_cache=False, **({"input_ids": ids()} | given)).logits
    return found


def generate(model: Any, **options: Any) -> Tensor:
    given = {"input_ids": ids(), "max_new_tokens": 3, "do_sample": False, "pad_token_id": PAD, **options}
    given.setdefault("attention_mask", torch.ones_like(given["input_ids"]))
    # Random models end when they like; these go on unless a test says otherwise.
    return model.generate(**given, **({} if "min_new_tokens" in given else {"min_new_tokens": 3}))


def record(model: Any, run: Any, **options: Any) -> list[AttentionCall]:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, issue: Any) -> Tensor:
        calls.append(call)
        return issue(call)

    with Session(model, handler, **options):
        run()
    return calls


# ---- roles


_NAMED = Marks(0, frozenset({1}), 2, 3, None, frozenset({9}))
_ONE_MARK = Marks(1, frozenset({1}), 1, None, None, frozenset())


@pytest.mark.parametrize(
    ("marks", "given", "real", "expected"),
    [
        (_NAMED, [0, 5, 6, 1, 7, 2, 2], None, "bos content content eos content pad pad"),
        (_NAMED, [2, 2, 0, 5, 2, 6], None, "pad pad bos content content content"),
        (_NAMED, [2, 0, 5, 6], [0, 1, 1, 1], "pad bos content content"),
        (_NAMED, [5, 6, 7], [1, 1, 0], "content content pad"),
        (_NAMED, [0, 3, 5, 3], None, "bos mask content mask"),
        (_NAMED, [0, 9, 5, 0, 1], None, "bos template content template eos"),
        (_NAMED, [UNKNOWN_ID, 5], None, "None content"),
        (_ONE_MARK, [1, 5, 6, 1, 1, 1], None, "bos content content eos pad pad"),
        (_ONE_MARK, [1], None, "bos"),
        (_ONE_MARK, [1, 1, 5], [0, 1, 1], "pad bos content"),
        (_ONE_MARK, [5, 1], None, "content eos"),
        (_ONE_MARK, [5, 1, 1], [1, 1, 0], "content eos pad"),
        (_ONE_MARK, [1, 1, 1], [0, 0, 0], "pad pad pad"),
        (Marks(None, frozenset(), None, None, None, frozenset()), [1, 2], None, "content content"),
    ],
)
def test_roles_of_a_text(marks: Marks, given: list[int], real: list[int] | None, expected: str) -> None:
    hidden = None if real is None else [bool(here) for here in real]
    assert " ".join(map(str, sequence_roles(given, hidden, marks))) == expected


def test_roles_need_no_tokenizer_and_strings_do() -> None:
    model = gpt2()
    for tokenizer, first, second in ((None, None, None), (words(), "<bos>", f"w{ids()[0, 1]}")):
        with observe(model, layers=0, tokenizer=tokenizer) as seen:
            logits(model)
        found = seen.sinks(keys_per_head=7)
        row = found[(found.unit == 0) & (found["head"] == 0)].sort_values("key")
        assert row.role.tolist() == ["bos"] + ["content"] * 6
        assert (row.token.tolist()[0], row.token.tolist()[1]) == (first, second)
        assert set(row.segment) == {"text"} and row.position.tolist() == list(range(7))


def test_a_pipeline_of_transformers_brings_its_tokenizer() -> None:
    pipe = TextGenerationPipeline(model=gpt2(), tokenizer=words())
    assert [site.name for site in sites(pipe)] == ["transformer.h.0.attn", "transformer.h.1.attn"]
    edit = Edit(Keys((0,)), Mask(), layers=[0])
    with intervene(pipe, edit) as receipt, observe(pipe, layers=1) as seen:
        pipe("w5 w6 w7", max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert seen.steps == (0, 1, 2)
    assert seen.sinks(keys_per_head=3).token.head(12).str.fullmatch(r"w[567]").all()
    assert set(receipt.edited_keys().token) == {"w5"}


def test_a_folder_of_a_language_model_is_loaded_with_its_head(tmp_path: Path) -> None:
    model = gpt2()
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    assert load(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


def test_a_model_that_peft_wrapped_is_the_model_inside() -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(llama(), lora)
    assert [site.name for site in sites(model)] == [f"model.layers.{layer}.self_attn" for layer in (0, 1)]
    plain = generate(model)
    with observe(model, layers=1, tokenizer=Numbers()) as seen:
        assert torch.equal(generate(model), plain)
    assert seen.mass().shape == (3, 2, 4, 9)
    found = seen.sinks(keys_per_head=7)
    for row in found[found.step == 2].itertuples():
        assert row.token == str(int(plain[row.unit, row.key]))
    with intervene(model, Edit(Keys((0,)), Mask())):
        assert not torch.allclose(logits(model), logits(llama()), atol=1e-3)


def test_a_tokenizer_for_anything_else_is_refused() -> None:
    with pytest.raises(UsageError, match=r"tokenizer=..., but MultiheadAttention is no language model"):
        Session(nn.MultiheadAttention(8, 2), tokenizer=words())


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


# ---- masked diffusion


def test_what_is_still_to_write_is_a_segment_and_changes_from_step_to_step() -> None:
    model = llada()
    assert {site.kind for site in sites(model)} == {"self"}
    with observe(model, layers=1, tokenizer=Numbers()) as seen:
        unmask(model)
    found = seen.sinks(keys_per_head=7)
    for step, masked in enumerate((4, 2)):
        here = found[(found.step == step) & (found["head"] == 0) & (found.unit == 1)].sort_values("key")
        assert here.role.tolist() == ["bos"] + ["content"] * (6 - masked) + ["mask"] * masked
        assert here.token.tolist()[-masked:] == [str(MASK)] * masked
    assert seen.mass()[0, 0, 0].min() > 0, "every token is attended to from both sides"


def test_a_mask_that_hides_nothing_opens_a_causal_model() -> None:
    """LLaDA as people run it: a causal class given a mask of four axes."""
    model = llama()
    everything = torch.ones(2, 1, 7, 7, dtype=torch.bool)
    with observe(model, layers=0) as causal:
        logits(model)
    with observe(model, layers=0) as opened:
        logits(model, attention_mask=everything)
    summary = opened.summary()
    assert set(summary["keys"]) == {7} and not torch.allclose(opened.mass(), causal.mass(), atol=1e-2)
    assert torch.allclose(opened.mass().sum(-1), torch.ones(1, 2, 4), atol=1e-5)


def test_blocks_that_call_the_kernel_themselves() -> None:
    """As in LLaDA's own code, which has no module for attention."""

    class LLaDALlamaBlock(nn.Module):
        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__()
            self.config = config
            self.att_proj, self.attn_out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.att_proj(x).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=False)
            return x + self.attn_out(mixed.transpose(1, 2).flatten(2))

    class LLaDAModelLM(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.embed = nn.Embedding(WORDS, 16)
            self.blocks = nn.ModuleList([LLaDALlamaBlock(config) for _ in range(2)])

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(0)
    model = LLaDAModelLM(PretrainedConfig(n_heads=2, mask_token_id=MASK)).eval()
    assert [(site.name, site.layer, site.kind, site.heads) for site in sites(model)] == [
        ("blocks.0", 0, "self", 2),
        ("blocks.1", 1, "self", 2),
    ]
    given = ids()
    given[:, 4:] = MASK
    with torch.no_grad(), observe(model) as seen:
        model(given)
    assert seen.mass(layer=1).shape == (1, 2, 2, 7) and "mass_masked" in seen.summary()


# ---- other models


def test_the_first_query_of_a_causal_model_may_lose_its_only_key() -> None:
    for build in (gpt2, llama, gemma2):
        model = build()
        with intervene(model, Edit(Keys((0,)), Mask())) as receipt:
            edited = logits(model)
        assert torch.isfinite(edited).all()
        table = receipt.table()
        assert (table.mass_after == 0).all() and (table.mass_before > 1 / 7).all()


@pytest.mark.parametrize("build", [gpt2, llava, gpt_oss], ids=lambda build: build.__name__)
def test_only_hooks_of_others_stay_on_a_model_that_first_runs_in_a_session(build: Any) -> None:
    """transformers puts hooks of its own on a model when that first runs."""
    model = build()
    with Session(model, lambda call, run: run(call)):
        look_and_read(model) if build is llava else logits(model)
    hooks = [
        hook
        for part in model.modules()
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    owners = {getattr(getattr(hook, "func", hook), "__module__", "") for hook in hooks}
    assert not any(owner.startswith("sinkscope") for owner in owners)
    before = state(model)
    with Session(model, lambda call, run: run(call)):
        look_and_read(model) if build is llava else logits(model)
    assert state(model) == before


def test_a_module_that_runs_several_times_is_several_sites() -> None:
    torch.manual_seed(0)
    model = AlbertModel(
        AlbertConfig(
            vocab_size=WORDS,
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=16,
        )
    ).eval()
    with observe(model, tokenizer=Numbers()) as seen, torch.no_grad():
        model(ids())
    assert seen.summary().site.nunique() == 3
    assert {site.kind for site in sites(model)} == {"self"}
    assert set(seen.sinks().segment) == {"text"}
