"""Attention that cannot be seen is an error that names module, class, reason and remedy."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import FirstBlockCacheConfig, SanaTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from tests import tiny
from tests.models.guard import state
from torch import Tensor, nn
from transformers import CLIPTextModel

from sinkscope.attention import Mask, TopMass
from sinkscope.errors import (
    CacheActiveError,
    DistributedAttentionError,
    EagerAttentionError,
    FusedBackendError,
    LinearAttentionError,
    NoMatchError,
    ScriptModuleError,
    UnsupportedAttentionError,
    UsageError,
)
from sinkscope.models import Edit, Session, intervene, observe


def looked_at(pipe: Any, **options: Any) -> Session:
    with Session(pipe, lambda call, run: run(call), **options) as session:
        tiny.run(pipe, output_type="latent")
    return session


def test_linear_attention_names_module_and_the_sites_that_work() -> None:
    torch.manual_seed(0)
    model = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
    ).eval()
    inputs = {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 6, 8),
        "timestep": torch.tensor([10.0]),
    }
    with (
        torch.no_grad(),
        pytest.raises(
            LinearAttentionError,
            match=r"blocks.0.attn1 \(Attention, SanaLinear.*never forms softmax.*sites='\*.attn2'\.$",
        ),
        Session(model, lambda call, run: run(call)),
    ):
        model(**inputs)
    with torch.no_grad(), Session(model, lambda call, run: run(call), sites="*.attn2") as session:
        model(**inputs)
    assert session.calls == 1
    assert state(model)[1:] == ([], 0, "default")


def test_eager_processors() -> None:
    pipe = tiny.tiny_sd15()
    pipe.unet.set_attn_processor(AttnProcessor())
    with pytest.raises(
        EagerAttentionError, match=r"attn1 \(Attention, AttnProcessor\) ran softmax outside.*2_0"
    ):
        looked_at(pipe)
    pipe.unet.set_attn_processor(AttnProcessor2_0())
    assert looked_at(pipe).calls == 16


def test_only_the_eager_modules_are_reported() -> None:
    pipe = tiny.tiny_sd15()
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.set_processor(AttnProcessor())
    with pytest.raises(EagerAttentionError, match=r"^mid_block\S+attn2 \((?!.*more module)"):
        looked_at(pipe)
    assert looked_at(pipe, sites="*.attn1").calls == 8
    assert looked_at(pipe, strict=False).calls == 14


def test_attention_slicing() -> None:
    pipe = tiny.tiny_sd15()
    pipe.enable_attention_slicing(1)
    with pytest.raises(EagerAttentionError, match=r"disable_attention_slicing\(\)"):
        looked_at(pipe)
    pipe.disable_attention_slicing()
    assert looked_at(pipe).calls == 16


def test_eager_transformers_models() -> None:
    model = tiny.clip_encoder().eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(0, 20, (1, tiny.TEXT))
    with pytest.raises(EagerAttentionError, match="attn_implementation"), Session(model):
        model(ids)
    model.set_attn_implementation("sdpa")
    with Session(model, lambda call, run: run(call)) as session:
        model(ids)
    assert session.calls == 2


def test_fused_backends() -> None:
    pipe = tiny.tiny_flux()
    pipe.transformer.set_attention_backend("flex")
    with pytest.raises(
        FusedBackendError, match=r"'flex', which bypasses.*set_attention_backend\(\"native\"\)"
    ):
        looked_at(pipe)
    pipe.transformer.set_attention_backend("native")
    assert looked_at(pipe).calls == 8


def _kernel(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """What a fused kernel is to a session: the right numbers without torch's call and without a softmax."""
    scores = (query.transpose(1, 2) @ key.transpose(1, 2).mT * query.shape[-1] ** -0.5).exp()
    return (scores / scores.sum(-1, keepdim=True) @ value.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("name", ["flash", "_flash_3", "sage", "xformers", "_native_npu", "_native_xla"])
def test_fused_backends_by_their_registered_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their packages need a GPU; a stand-in for the kernel is registered under their names."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    backend = AttentionBackendName(name)
    pipe = tiny.tiny_flux()
    for module in pipe.transformer.modules():
        if hasattr(module, "processor"):
            module.processor._attention_backend = backend
    monkeypatch.setitem(_AttentionBackendRegistry._backends, backend, _kernel)
    monkeypatch.setitem(_AttentionBackendRegistry._constraints, backend, [])
    monkeypatch.setitem(
        _AttentionBackendRegistry._supported_arg_names, backend, {"query", "key", "value", "attn_mask"}
    )
    with pytest.raises(
        FusedBackendError, match=rf"^transformer_blocks.0.attn \(FluxAttention, .*{name!r}.*native"
    ):
        looked_at(pipe)


def test_xformers_processors() -> None:
    class XFormersAttnProcessor:
        def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return hidden_states

    pipe = tiny.tiny_sd15()
    pipe.unet.set_attn_processor(XFormersAttnProcessor())
    with pytest.raises(FusedBackendError, match=r"XFormersAttnProcessor\) calls a fused.*disable_xformers"):
        looked_at(pipe)


def test_other_attention_functions_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def kernel(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        return value.transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("my_kernel", kernel)
    monkeypatch.setattr(
        CLIPTextModel, "_check_and_adjust_attn_implementation", lambda self, name, *a, **k: name
    )
    model = tiny.clip_encoder().eval()
    model.config._attn_implementation = "my_kernel"
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = "my_kernel"
    with (
        pytest.raises(
            FusedBackendError, match=r"self_attn \(CLIPAttention.*'my_kernel'.*implementation\(\"sdpa"
        ),
        Session(model),
    ):
        model(torch.randint(0, 20, (1, tiny.TEXT)))


def test_unfused_attention_of_timm() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fused_attn = False

        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.mT).softmax(dim=-1) @ x

    with (
        pytest.raises(EagerAttentionError, match=r"0 \(Attention\) ran softmax.*set_fused_attn\(True\)"),
        Session(nn.Sequential(Attention())) as session,
    ):
        session.pipe(torch.randn(1, 3, 4))


def test_script_modules() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(4, 1)
            self.traced = torch.jit.trace(nn.Linear(4, 4), torch.zeros(1, 4))

        def forward(self, hidden_states: Tensor) -> Tensor:
            return self.traced(self.attn(hidden_states, hidden_states, hidden_states)[0])

    model = Model().eval()
    with pytest.raises(ScriptModuleError, match=r"traced \(TopLevelTracedModule\)"), Session(model):
        pass
    with Session(model, lambda call, run: run(call), strict=False) as session:
        model(torch.randn(3, 1, 4))
    assert session.calls == 1


def graph() -> nn.Module:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    return torch.fx.symbolic_trace(nn.Sequential(Attention()))


def test_exported_graphs() -> None:
    with (
        pytest.raises(ScriptModuleError, match=r"is an exported graph.*original module"),
        Session(graph()),
    ):
        pass


CACHES = {
    "FirstBlockCacheConfig": ("FirstBlockCache", {"threshold": 0.1}),
    "PyramidAttentionBroadcastConfig": (
        "Pyramid Attention Broadcast",
        {"spatial_attention_block_skip_range": 2, "current_timestep_callback": lambda: 500},
    ),
    "FasterCacheConfig": (
        "FasterCache",
        {"spatial_attention_block_skip_range": 2, "current_timestep_callback": lambda: 500},
    ),
    "TaylorSeerCacheConfig": ("TaylorSeer", {}),
    "MagCacheConfig": ("MagCache", {"mag_ratios": [1.0, 1.0], "num_inference_steps": 2}),
}


@pytest.mark.parametrize("config", CACHES)
def test_caches_are_refused_by_name(config: str) -> None:
    if not hasattr(diffusers, config):
        pytest.skip(f"diffusers {diffusers.__version__} has no {config}")
    name, options = CACHES[config]
    pipe = tiny.tiny_flux()
    pipe.transformer.enable_cache(getattr(diffusers, config)(**options))
    with pytest.raises(
        CacheActiveError, match=rf"^{name} is active on FluxTransformer2DModel .*disable_cache"
    ):
        looked_at(pipe)
    pipe.transformer.disable_cache()
    assert looked_at(pipe).calls == 8


def test_a_cache_put_on_by_hand_is_refused_and_may_be_allowed() -> None:
    from diffusers.hooks import apply_first_block_cache

    pipe = tiny.tiny_flux()
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=1e9))
    with pytest.raises(CacheActiveError, match=r"^FirstBlockCache.*pass strict=False to go without"):
        looked_at(pipe)
    session = looked_at(pipe, strict=False)
    assert session.calls == 4 + 1, "the second step computes the first block only"
    with pytest.raises(CacheActiveError), observe(pipe, layers=[1]):
        pass
    with observe(pipe, layers=[1], strict=False) as seen:
        tiny.run(pipe, output_type="latent")
    assert seen.mass(layer=1).shape[0] == 1
    with pytest.raises(CacheActiveError), intervene(pipe, Edit(TopMass(keys_per_head=1), Mask(), layers=[1])):
        pass


def test_sharded_keys() -> None:
    pipe = tiny.tiny_flux()
    pipe.transformer._parallel_config = object()
    with pytest.raises(
        DistributedAttentionError, match="FluxTransformer2DModel.*sharded.*enable_parallelism"
    ):
        looked_at(pipe)


def test_context_parallel_hooks() -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    pipe = tiny.tiny_flux()
    HookRegistry.check_if_exists_or_initialize(pipe.transformer.proj_out).register_hook(
        ModelHook(), "cp_output---proj_out"
    )
    with pytest.raises(DistributedAttentionError, match=r"^proj_out \(Linear\).*'cp_output---proj_out'"):
        looked_at(pipe)


def test_replicas_in_threads() -> None:
    model = nn.DataParallel(tiny.tiny_flux().transformer)
    with pytest.raises(DistributedAttentionError, match=r"DataParallel\).*\(\.module\)"), Session(model):
        pass


def test_models_that_mix_tokens_without_attention() -> None:
    from transformers import MambaConfig, MambaModel

    model = MambaModel(MambaConfig(hidden_size=8, num_hidden_layers=1, state_size=2, vocab_size=8))
    with (
        pytest.raises(LinearAttentionError, match=r"\(Mamba\w+\) mixes tokens without softmax.*no sinks"),
        Session(model),
    ):
        pass


def test_attention_scores_that_a_hook_skips() -> None:
    from diffusers.hooks import HookRegistry, LayerSkipConfig, apply_layer_skip

    pipe = tiny.tiny_pixart()
    config = LayerSkipConfig(
        indices=[1], fqn="transformer_blocks", skip_attention=False, skip_ff=False, skip_attention_scores=True
    )
    apply_layer_skip(pipe.transformer, config)
    with pytest.raises(
        UnsupportedAttentionError, match=r"^transformer_blocks.1.attn1 \(.*'layer_skip_hook' of diffusers"
    ):
        looked_at(pipe)
    assert looked_at(pipe, strict=False).calls == 6
    attention = pipe.transformer.transformer_blocks[1].attn1
    HookRegistry.check_if_exists_or_initialize(attention).remove_hook("layer_skip_hook")
    assert looked_at(pipe).calls == 8


def test_blocks_that_a_hook_skips_make_no_call() -> None:
    from diffusers.hooks import LayerSkipConfig, apply_layer_skip

    pipe = tiny.tiny_pixart()
    apply_layer_skip(pipe.transformer, LayerSkipConfig(indices=[1], fqn="transformer_blocks"))
    assert looked_at(pipe).calls == 4
    with (
        pytest.raises(NoMatchError, match="matched no attention call"),
        observe(pipe, layers=[1], kind="self"),
    ):
        tiny.run(pipe, output_type="latent")


def test_models_without_attention() -> None:
    with (
        pytest.raises(UnsupportedAttentionError, match="Linear has no attention module"),
        Session(nn.Linear(2, 2)),
    ):
        pass


def test_attention_modules_that_do_something_else() -> None:
    class PoolingAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True).expand_as(x)

    model = nn.Sequential(PoolingAttention())
    with (
        pytest.raises(UnsupportedAttentionError, match=r"0 \(PoolingAttention\) ran without"),
        Session(model),
    ):
        model(torch.randn(1, 3, 4))


def test_a_failing_forward_keeps_its_own_error() -> None:
    pipe = tiny.tiny_sd15()
    pipe.unet.set_attn_processor(AttnProcessor())

    def broken(*args: Any) -> None:
        raise ZeroDivisionError

    pipe.unet.conv_out.register_forward_pre_hook(broken)
    with pytest.raises(ZeroDivisionError):
        looked_at(pipe)


@pytest.mark.parametrize("thing", [3, "shapes", object()])
def test_what_is_no_model(thing: Any) -> None:
    with pytest.raises(UsageError, match="expected a pipeline of diffusers or transformers or"):
        Session(thing)


def test_pipelines_without_a_denoiser() -> None:
    class Pipeline:
        components = {"vae": nn.Identity()}  # noqa: RUF012

    with pytest.raises(UnsupportedAttentionError, match="has no denoiser.*among vae"):
        Session(Pipeline())
