"""Language models as bare modules: which token is which key, roles, pipelines, masked diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from tests.models.guard import state
from tests.models.texts import Numbers, generate, logits, words
from tests.zoo.language import (
    MASK,
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
from tests.zoo.vision import llava, look_and_read, pictures, vit
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    TextGenerationPipeline,
)

from sinkscope.attention import Keys, Mask
from sinkscope.errors import UsageError
from sinkscope.models import Edit, Session, intervene, load, observe, sites
from sinkscope.models._sequence import UNKNOWN_ID, Marks, sequence_roles

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


def t5() -> T5EncoderModel:
    """The encoder of T5: scale 1, biases by distance."""
    if transformers.__version__.startswith("4."):
        pytest.skip("T5 of transformers 4 has no SDPA path")
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    model = T5EncoderModel(T5Config(vocab_size=WORDS, initializer_factor=4.0, **sizes)).eval()
    assert {site.segments for site in sites(model)} == {("text",)}
    return model


@pytest.mark.parametrize("build", [gpt2, llama, qwen3, llada, t5, vit], ids=lambda build: build.__name__)
def test_mass_is_the_mean_of_the_weights_the_model_itself_gives(build: Any) -> None:
    model = build()
    given = {"pixel_values": pictures()} if build is vit else padded()
    real = given.get("attention_mask", torch.ones(2, 17)).bool()
    with observe(model, queries="all") as seen, torch.no_grad():
        model(**given)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        own = model(output_attentions=True, **given).attentions
    assert len(own) == 2
    for layer, weights in enumerate(own):
        for row, here in enumerate(real):
            want = weights[row][:, here].mean(1)
            torch.testing.assert_close(seen.mass(layer=layer)[0, row], want, rtol=1e-4, atol=1e-5)


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
    peft = pytest.importorskip("peft", minversion="0.18")
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
