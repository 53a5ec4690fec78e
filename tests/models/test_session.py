"""The with block: nesting, threads, exceptions, and everything torch and accelerate do around a forward
pass."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests import tiny
from tests.models.guard import state
from torch import Tensor, nn

from sinkscope.errors import SessionError, SinkscopeError
from sinkscope.models import AttentionCall, Session


@pytest.fixture(scope="module")
def sd3() -> Any:
    pipe = tiny.tiny_sd3()
    tiny.run(pipe, output_type="latent")
    return pipe


def inputs(seed: int = 0, rows: int = 2) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(rows, 4, 8, 8, generator=random),
        "encoder_hidden_states": torch.randn(rows, 10, 32, generator=random),
        "pooled_projections": torch.randn(rows, 32, generator=random),
        "timestep": torch.full((rows,), 500.0),
    }


def mask_first(call: AttentionCall, run: Any) -> Tensor:
    """Take the first key away from every query."""
    keep = torch.ones(1, 1, 1, call.k.shape[2], dtype=torch.bool)
    keep[..., 0] = False
    return run(call.replace(mask=keep if call.mask is None else call.mask & keep))


def forward(model: nn.Module, **changes: Any) -> Tensor:
    return model(**{**inputs(), **changes}).sample


def test_inner_handler_runs_first_and_outer_sees_its_change(sd3: Any) -> None:
    seen: list[bool] = []

    def outer(call: AttentionCall, run: Any) -> Tensor:
        seen.append(call.mask is not None)
        return run(call)

    model = sd3.transformer
    with torch.no_grad(), Session(model, outer), Session(model, mask_first) as inner:
        nested = forward(model)
    with torch.no_grad(), Session(model, mask_first):
        alone = forward(model)
    assert inner.calls == len(seen) == 3 and all(seen)
    assert torch.equal(nested, alone)


def test_several_handlers_of_one_session_run_in_order(sd3: Any) -> None:
    order: list[str] = []

    def named(name: str) -> Any:
        def handler(call: AttentionCall, run: Any) -> Tensor:
            order.append(name)
            return run(call)

        return handler

    with torch.no_grad(), Session(sd3.transformer, [named("a"), named("b")]):
        forward(sd3.transformer)
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_exceptions_leave_nothing_behind(sd3: Any, kind: type[BaseException]) -> None:
    before, plain = state(sd3), tiny.run(sd3, output_type="latent")

    def interrupted(call: AttentionCall, run: Any) -> Tensor:
        if call.step == 1 and call.site.layer == 1:
            raise kind("stop")
        return run(call)

    with pytest.raises(kind), Session(sd3, interrupted):
        tiny.run(sd3, output_type="latent")
    assert state(sd3) == before
    assert torch.equal(tiny.run(sd3, output_type="latent"), plain)


def test_an_interrupt_caught_inside_the_block_leaves_no_stale_frames(sd3: Any) -> None:
    keys: list[str] = []
    fail = [True]

    def handler(call: AttentionCall, run: Any) -> Tensor:
        if fail and call.site.layer == 1:
            fail.clear()
            raise KeyboardInterrupt
        keys.append(call.site.key)
        return run(call)

    with torch.no_grad(), Session(sd3.transformer, handler):
        with pytest.raises(KeyboardInterrupt):
            forward(sd3.transformer)
        keys.clear()
        forward(sd3.transformer)
    assert keys == [f"transformer_blocks.{layer}.attn#0.0" for layer in range(3)]


def test_a_failing_entry_leaves_nothing_behind(sd3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(sd3)
    session = Session(sd3)

    def broken(*args: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(session, "_hook", broken)
    with pytest.raises(RuntimeError), session:
        pass
    assert state(sd3) == before


def test_threads_have_their_own_sessions(sd3: Any) -> None:
    model = sd3.transformer

    def halve(call: AttentionCall, run: Any) -> Tensor:
        return run(call) * 0.5

    handlers: list[Any] = [None, mask_first, halve]
    with torch.no_grad():
        expected = []
        for handler in handlers:
            with Session(model, handler):
                expected.append(forward(model))
    results: list[list[Tensor]] = [[], [], []]
    barrier = threading.Barrier(3)

    def work(index: int) -> None:
        barrier.wait()
        for _ in range(4):
            with torch.no_grad(), Session(model, handlers[index]):
                results[index].append(forward(model))

    before = state(sd3)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(3):
        assert len(results[index]) == 4
        assert all(torch.equal(result, expected[index]) for result in results[index])
    assert state(sd3) == before


def test_sessions_of_two_threads_may_close_in_any_order(sd3: Any) -> None:
    """Pipelines share schedulers; the wrapper of one thread must not bring back the other's."""
    before = state(sd3)
    opened, close = threading.Event(), threading.Event()

    def work() -> None:
        with Session(sd3):
            opened.set()
            close.wait()

    thread = threading.Thread(target=work)
    with Session(sd3):
        thread.start()
        opened.wait()
    close.set()
    thread.join()
    assert state(sd3) == before


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes_change_nothing(sd3: Any, context: Any) -> None:
    with context():
        plain = forward(sd3.transformer)
        with Session(sd3.transformer, lambda call, run: run(call)):
            handled = forward(sd3.transformer)
    assert torch.equal(plain, handled)


def test_autocast_reaches_the_models_own_call_only(sd3: Any) -> None:
    dtypes = set()

    def handler(call: AttentionCall, run: Any) -> Tensor:
        weights = torch.softmax(call.q.float() @ call.k.float().mT * call.q.shape[-1] ** -0.5, -1)
        dtypes.add((weights.dtype, run(call).dtype))
        return run(call)

    def in_float(call: AttentionCall, run: Any) -> Tensor:
        weights = torch.softmax(call.q.float() @ call.k.float().mT * call.q.shape[-1] ** -0.5, -1)
        return weights @ call.v.float()

    model = sd3.transformer
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        plain = forward(model)
        with Session(model, handler):
            handled = forward(model)
        with Session(model, in_float):
            recomputed = forward(model)
    assert torch.equal(plain, handled)
    assert dtypes == {(torch.float32, torch.bfloat16)}
    assert recomputed.dtype == plain.dtype
    assert torch.allclose(recomputed.float(), plain.float(), atol=0.1)


def test_bfloat16_weights(sd3: Any) -> None:
    model = tiny.tiny_sd3().transformer.bfloat16()
    arguments = {name: value.bfloat16() for name, value in inputs().items()}
    with torch.no_grad():
        plain = model(**arguments).sample
        with Session(model, lambda call, run: run(call)):
            assert torch.equal(model(**arguments).sample, plain)


def test_a_handler_may_return_float32_for_half_precision() -> None:
    model = tiny.tiny_sd3().transformer.bfloat16()
    arguments = {name: value.bfloat16() for name, value in inputs().items()}
    with torch.no_grad(), Session(model, lambda call, run: run(call).float()):
        assert model(**arguments).sample.dtype == torch.bfloat16


@pytest.mark.parametrize("output", [torch.zeros(1), None])
def test_a_wrong_handler_output_is_named(sd3: Any, output: Any) -> None:
    with torch.no_grad(), Session(sd3.transformer, lambda call, run: output):
        with pytest.raises(
            SinkscopeError, match=r"transformer_blocks.0.attn#0.0, expected a tensor of shape"
        ):
            forward(sd3.transformer)


def test_a_session_is_open_once(sd3: Any) -> None:
    session = Session(sd3)
    with session, pytest.raises(SessionError, match="open already"), session:
        pass
    with session:
        tiny.run(sd3, output_type="latent")


def test_a_session_can_be_restricted(sd3: Any) -> None:
    seen = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        seen.append(call.site.layer)
        return run(call)

    with torch.no_grad(), Session(sd3.transformer, handler, sites="*.1.attn"):
        forward(sd3.transformer)
    assert seen == [1]


def test_a_bare_module_counts_forward_calls(sd3: Any) -> None:
    calls = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        calls.append(call)
        return run(call)

    with torch.no_grad(), Session(sd3.transformer, handler):
        forward(sd3.transformer)
        forward(sd3.transformer)
    assert [call.step for call in calls] == [0] * 3 + [1] * 3
    assert calls[0].step_count is None and calls[0].generation == 0 and calls[0].timestep == 500.0
    assert [(row.branch, row.unit) for row in calls[0].rows] == [("none", 0), ("none", 1)]
    assert calls[0].key_segments["text"].sum() == 10


# ---- gradient checkpointing


def gradient(model: nn.Module) -> Tensor:
    hidden = inputs()["hidden_states"].requires_grad_()
    model(**{**inputs(), "hidden_states": hidden}).sample.square().sum().backward()
    assert hidden.grad is not None
    return hidden.grad


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_those_of_the_edited_model(reentrant: bool) -> None:
    model = tiny.tiny_sd3().transformer
    recomputed: list[str] = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        if call.recompute:
            recomputed.append(call.site.key)
        return mask_first(call, run)

    with Session(model, handler):
        expected = gradient(model)

    def checkpoint(function: Any, *args: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=reentrant)

    model.enable_gradient_checkpointing(checkpoint)
    model.train()
    before = vars(model)["_gradient_checkpointing_func"]
    with Session(model, handler) as session:
        found = gradient(model)
    assert session.calls == 3, "recomputed calls are not counted"
    assert sorted(recomputed) == [f"transformer_blocks.{layer}.attn#0.0" for layer in range(3)]
    assert torch.allclose(found, expected, atol=1e-7)
    assert vars(model)["_gradient_checkpointing_func"] is before


def test_backward_after_the_session_is_refused() -> None:
    model = tiny.tiny_sd3().transformer
    model.enable_gradient_checkpointing()
    model.train()
    with Session(model, mask_first):
        hidden = inputs()["hidden_states"].requires_grad_()
        loss = model(**{**inputs(), "hidden_states": hidden}).sample.sum()
    with pytest.raises(SessionError, match="after its session was closed.*inside the `with` block"):
        loss.backward()


# ---- torch.compile


@pytest.mark.slow
def test_compiled_models_run_eagerly_inside_and_compiled_again_after() -> None:
    model = tiny.tiny_sd3().transformer
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        expected = forward(model)
        assert torch.allclose(forward(compiled), expected)
        for root in (compiled, model):
            with Session(root, mask_first) as session:
                masked = forward(compiled)
            assert session.calls == 3
            with Session(model, mask_first):
                assert torch.equal(forward(model), masked)
        assert torch.allclose(forward(compiled), expected)


def test_a_compiled_attention_module_is_one_visit() -> None:
    model = tiny.tiny_sd3().transformer
    model.transformer_blocks[1].attn = torch.compile(model.transformer_blocks[1].attn, backend="eager")
    keys = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        keys.append((call.site.key, call.site.layer))
        return run(call)

    with torch.no_grad(), Session(model, handler):
        forward(model)
    assert keys == [(f"transformer_blocks.{layer}.attn#0.0", layer) for layer in range(3)]


def test_a_session_inside_a_compiled_region_is_refused(monkeypatch: pytest.MonkeyPatch, sd3: Any) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(SessionError, match="inside a compiled.*around the compiled call"), Session(sd3):
        pass


# ---- offloading


@pytest.mark.parametrize("family", ["sd3", "sdxl"])
def test_offload_hooks_stay_and_change_nothing(family: str) -> None:
    from accelerate import cpu_offload

    pipe = tiny.FAMILIES[family]()
    plain = tiny.run(pipe, output_type="latent")
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    cpu_offload(denoiser, execution_device="cpu")
    before = state(pipe)
    with Session(pipe, lambda call, run: run(call)) as session:
        handled = tiny.run(pipe, output_type="latent")
    assert session.calls > 0
    assert torch.equal(plain, handled)
    assert state(pipe) == before
    assert denoiser._hf_hook is not None


def test_layerwise_casting_and_fused_projections() -> None:
    pipe = tiny.tiny_flux()
    pipe.transformer.fuse_qkv_projections()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    plain = tiny.run(pipe, output_type="latent")
    with Session(pipe, lambda call, run: run(call)) as session:
        assert torch.equal(tiny.run(pipe, output_type="latent"), plain)
    assert session.calls == 8


# ---- other modules


class Pooled(nn.Module):
    """An encoder with torch's own attention module, run twice with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
        self.need_weights = False

    def forward(self, hidden_states: Tensor) -> Tensor:
        for _ in range(2):
            output, _ = self.attn(hidden_states, hidden_states, hidden_states, need_weights=self.need_weights)
            hidden_states = hidden_states + output
        return hidden_states


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_is_seen_on_each_visit(need_weights: bool) -> None:
    torch.manual_seed(0)
    model = Pooled().eval()
    model.need_weights = need_weights
    tokens = torch.randn(2, 5, 16)
    keys = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        keys.append(call.site.key)
        assert call.q.shape == (2, 2, 5, 8)
        return run(call)

    with torch.no_grad():
        plain = model(tokens)
        with Session(model, handler):
            handled = model(tokens)
        with Session(model, mask_first):
            masked = model(tokens)
        with Session(model):
            null = model(tokens)
    assert keys == ["attn#0.0", "attn#1.0"]
    assert torch.allclose(plain, handled, atol=1e-6) and torch.equal(null, handled)
    assert not torch.allclose(plain, masked, atol=1e-3)


class Causal(nn.Module):
    """Several calls per visit, without a head axis, causal, grouped heads."""

    class SelfAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.scaled_dot_product_attention(x, x, x, is_causal=True)
            four = x.unsqueeze(1).repeat(1, 4, 1, 1)
            z = torch.ops.aten.scaled_dot_product_attention(four, four[:, :2], four[:, :2], enable_gqa=True)
            return y + z.sum(1)

    def __init__(self) -> None:
        super().__init__()
        self.attn = self.SelfAttention()

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.attn(hidden_states)


def test_call_index_causal_masks_and_grouped_heads() -> None:
    model, tokens = Causal(), torch.randn(2, 4, 8)
    calls = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        calls.append(call)
        return run(call)

    plain = model(tokens)
    with Session(model, handler):
        assert torch.equal(model(tokens), plain)
    assert [call.site.key for call in calls] == ["attn#0.0", "attn#0.1"]
    assert calls[0].is_causal and calls[0].q.shape == (2, 1, 4, 8)
    assert calls[1].enable_gqa and calls[1].k.shape == (2, 2, 4, 8)
    assert [token.segment for token in calls[1].tokens()[0]] == ["image"] * 4


def test_a_mask_beside_is_causal_keeps_the_triangle() -> None:
    q = torch.randn(1, 1, 4, 8)
    keep = torch.tensor([True, False, True, True]).view(1, 1, 1, 4)
    bias = torch.zeros(1, 1, 1, 4).masked_fill(~keep, float("-inf"))
    triangle = torch.ones(4, 4, dtype=torch.bool).tril()
    expected = F.scaled_dot_product_attention(q, q, q, attn_mask=keep & triangle)
    for mask in (keep, bias):

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attn = Inner()

            def forward(self, x: Tensor) -> Tensor:
                return self.attn(x)

        class Inner(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return F.scaled_dot_product_attention(x, x, x, is_causal=True)

        Inner.__name__ = "SelfAttention"
        model = Model()
        with Session(model, lambda call, run, mask=mask: run(call.replace(mask=mask))):
            assert torch.allclose(model(q), expected)
