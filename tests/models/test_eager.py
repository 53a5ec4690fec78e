"""Models that transformers can only run eagerly: seen as any other, and left as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.models.guard import state
from tests.zoo.language import gemma2, gpt_oss, ids, padded, read_padded
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PegasusXConfig, PegasusXModel
from transformers.models.gemma2 import modeling_gemma2

from sinkscope.attention import Keys, Mask, ReplaceValue, ScaleLogit, ScaleProbability, Segment, TopMass
from sinkscope.errors import EagerAttentionError, UsageError
from sinkscope.models import AttentionCall, Edit, Session, intervene, observe, sites
from sinkscope.models import _eager as module

MODELS = {"gemma2": gemma2, "gpt_oss": gpt_oss}
both = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


def logits(model: Any, **given: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(use_cache=False, **({"input_ids": ids()} | given)).logits
    return found


def everything(model: Any) -> Any:
    """All that a session switches over."""
    configs = {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")}
    known = [tuple(interface()) for interface in (AttentionInterface, AttentionMaskInterface)]
    return state(model), configs, known, dict(module._configs)


@both
@pytest.mark.parametrize("window", [4, 32])
def test_watching_changes_no_bit_of_padded_texts(build: Callable[..., Any], window: int) -> None:
    """With the padding mask lost, or another one in its place, logits would move."""
    model = build(window)
    plain, before = read_padded(model), everything(model)
    with observe(model, kind="all") as seen:
        watched = read_padded(model)
    assert torch.equal(plain, watched)
    assert everything(model) == before
    assert len(seen) == 4
    unpadded = logits(model, input_ids=padded()["input_ids"])
    assert not torch.allclose(plain[0, 6], unpadded[0, 6], atol=1e-3)


@both
def test_mass_is_the_mean_of_the_models_own_weights(build: Callable[..., Any]) -> None:
    model, given = build(), padded()
    real = given["attention_mask"].bool()
    with torch.no_grad():
        own = model(use_cache=False, output_attentions=True, **given).attentions
    with observe(model) as seen:
        logits(model, **given)
    for layer, weights in enumerate(own):
        mass = seen.mass(layer=layer)[0]
        for row, here in enumerate(real):
            want = weights[row][:, here].mean(1)
            torch.testing.assert_close(mass[row][:, :7], want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mass.sum(-1), torch.ones(2, 4), rtol=0, atol=1e-5)


def test_a_sink_logit_is_the_last_key_and_holds_what_the_tokens_do_not() -> None:
    model = gpt_oss()
    assert [site.segments for site in sites(model)] == [("text", "sink_logit")] * 2
    with observe(model) as seen:
        logits(model)
    found = seen.sinks(keys_per_head=8)
    last = found[found.key == 7]
    assert set(last.segment) == {"sink_logit"} and set(found[found.key < 7].segment) == {"text"}
    summary = seen.summary()
    assert "mass_sink_logit" in summary
    torch.testing.assert_close(
        torch.tensor((summary.mass_text + summary.mass_sink_logit).to_numpy()),
        torch.ones(len(summary)),
        rtol=0,
        atol=1e-5,
    )
    # Head 3 has the largest sink logit, head 2 the smallest.
    by_head = last[last.layer == 0].groupby("head").mass.mean()
    assert by_head.idxmax() == 3 and by_head.idxmin() == 2


@both
def test_masking_a_key_is_what_a_mask_given_to_the_model_does(build: Callable[..., Any]) -> None:
    """The oracle is the model itself, which takes a mask of four axes as it is."""
    model = build()
    keep = torch.ones(7, 7, dtype=torch.bool).tril()
    keep[:, 3] = False
    lowest = torch.finfo(torch.float32).min
    given = torch.zeros(2, 1, 7, 7).masked_fill(~keep, lowest)
    want = logits(model, attention_mask=given)
    with intervene(model, Edit(Keys((3,)), Mask())) as receipt:
        masked = logits(model)
    torch.testing.assert_close(masked, want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(masked, logits(model), atol=1e-2)
    table = receipt.table()
    assert (table.mass_before > 0).all() and (table.mass_after == 0).all()


def test_a_removed_sink_logit_is_a_model_without_it() -> None:
    model, without = gpt_oss(), gpt_oss()
    for layer in without.model.layers:
        layer.self_attn.sinks.data.fill_(-1e4)
    with intervene(model, Edit(Segment("sink_logit"), Mask())):
        edited = logits(model)
    torch.testing.assert_close(edited, logits(without), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(edited, logits(model), atol=1e-2)


@both
def test_a_query_without_keys_attends_to_nothing_and_padding_stays(build: Callable[..., Any]) -> None:
    model, outputs = build(), []

    def keep(call: AttentionCall, run: Any) -> Tensor:
        outputs.append((run(call), run(call.replace(mask=call.mask.masked_fill(first, -torch.inf)))))
        return outputs[-1][0]

    first = torch.zeros(8 if build is gpt_oss else 7, dtype=torch.bool)
    first[3] = True
    with Session(model, keep, sites="*.0.*"):
        logits(model, **padded())
    plain, edited = outputs[0]
    if build is gemma2:
        # Row 0 begins with three tokens of padding; its first word may attend to itself alone.
        assert torch.equal(edited[0, :, :3], plain[0, :, :3]) and plain[0, :, :3].any()
    assert not edited[0, :, 3].any() and plain[0, :, 3].any()


@both
@pytest.mark.parametrize(
    "action",
    [ScaleLogit(0.5), ScaleLogit(shift=-1.0), ScaleProbability(0.3), ReplaceValue("zero")],
    ids=lambda action: type(action).__name__,
)
def test_every_action_works_and_its_null_changes_nothing(build: Callable[..., Any], action: Any) -> None:
    model = build()
    edit = Edit(TopMass(keys_per_head=1, within="text"), action)
    with intervene(model, edit) as receipt:
        edited = logits(model)
    assert torch.isfinite(edited).all() and not torch.allclose(edited, logits(model), atol=1e-3)
    table = receipt.table()
    if isinstance(action, ReplaceValue):
        assert (table.mass_after == table.mass_before).all()
    else:
        assert (table.mass_after - table.mass_before).abs().min() > 1e-5
    with intervene(model, edit.control("null")):
        null = logits(model, **padded())
    torch.testing.assert_close(null, logits(model, **padded()), rtol=1e-5, atol=1e-5)


def test_a_sink_logit_has_nothing_to_scale() -> None:
    model = gpt_oss()
    with pytest.raises(UsageError, match=r"learned sink logit of model.layers.0.self_attn .*within='text'"):
        with intervene(model, Edit(TopMass(keys_per_head=1), ScaleLogit(0.5))):
            logits(model)
    with intervene(model, Edit(Segment("sink_logit"), ScaleLogit(shift=-2.0))) as receipt:
        logits(model)
    assert (receipt.table().mass_after < receipt.table().mass_before).all()


@both
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_everything_is_switched_back_after_an_exception(
    build: Callable[..., Any], kind: type[BaseException]
) -> None:
    def interrupted(call: AttentionCall, run: Any) -> Tensor:
        assert {part.config._attn_implementation for part in (model, model.model)} == {module.NAME}
        raise kind("stop")

    model = build()
    plain, before = logits(model), everything(model)
    with pytest.raises(kind), Session(model, interrupted):
        logits(model)
    assert everything(model) == before
    assert torch.equal(logits(model), plain)


def test_sessions_nest_and_overlap_in_threads() -> None:
    model = gemma2()
    plain, before = logits(model), everything(model)
    edit = Edit(Keys((1,)), Mask())
    with intervene(model, edit):
        edited = logits(model)
    opened, close, results = threading.Event(), threading.Event(), []

    def work() -> None:
        with Session(model, lambda call, run: run(call)) as session:
            opened.set()
            close.wait()
            results.extend([logits(model), session.calls])

    thread = threading.Thread(target=work)
    with intervene(model, edit), observe(model, layers=0) as seen:
        thread.start()
        opened.wait()
        assert torch.equal(logits(model), edited)
    assert everything(model)[1] == {module.NAME}, "the other thread still needs it"
    assert torch.equal(logits(model), plain)
    close.set()
    thread.join()
    assert torch.equal(results[0], plain) and results[1] == 2
    assert seen.mass(layer=0)[..., 1].min() > 0, "inside of the edit the model's own attention is seen"
    assert everything(model) == before


def test_half_precision_and_gradients_are_those_of_the_model() -> None:
    model = gemma2()

    def gradient() -> Tensor:
        model.zero_grad()
        model(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
        return model.model.layers[0].self_attn.q_proj.weight.grad.clone()

    plain = gradient()
    with Session(model, lambda call, run: run(call)):
        assert torch.equal(gradient(), plain)
    with Session(model, lambda call, run: run(call.replace(v=call.v * 0.5))):
        assert torch.isfinite(gradient()).all()
    half = gemma2().bfloat16()
    with observe(half) as seen:
        watched = logits(half)
    assert torch.equal(watched, logits(half)) and len(seen) == 2


def test_attention_that_is_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = modeling_gemma2.eager_attention_forward

    def doubled(*args: Any, **options: Any) -> Any:
        output, weights = own(*args, **options)
        return 2 * output, weights

    model = gemma2()
    monkeypatch.setattr(module, "_proven", set())
    monkeypatch.setattr(modeling_gemma2, "eager_attention_forward", doubled)
    before = everything(model)
    with pytest.raises(EagerAttentionError, match=r"Gemma2Attention .* cannot be followed: .* differs"):
        with Session(model):
            logits(model)
    monkeypatch.delattr(modeling_gemma2, "eager_attention_forward")
    with pytest.raises(EagerAttentionError, match=r"its file has no eager_attention_forward.*sites="):
        module._forward(model.model.layers[0].self_attn, *[torch.zeros(1, 4, 2, 8)] * 3, None)
    assert everything(model) == before


def test_a_model_without_sdpa_is_not_told_to_use_it() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_global_tokens": 2, "block_size": 4}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_attention_heads": 2, f"{side}_ffn_dim": 16}
    model = PegasusXModel(PegasusXConfig(vocab_size=60, **sizes)).eval()
    with pytest.raises(
        EagerAttentionError, match=r"encoder.*no SDPA path for this model: choose other sites"
    ):
        with Session(model), torch.no_grad():
            model(input_ids=ids(), decoder_input_ids=ids())


def test_other_models_are_not_switched_over() -> None:
    from tests.zoo.language import llama

    model = llama()
    model.set_attn_implementation("eager")
    with pytest.raises(EagerAttentionError, match=r"sdpa"), Session(model):
        assert model.config._attn_implementation == "eager"
        logits(model)
