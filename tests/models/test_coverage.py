"""Attention that cannot be seen is an error that names module, class, reason and remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, SanaTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from tests import tiny
from tests.models.guard import state
from torch import Tensor, nn

from sinkscope.errors import (
    CacheActiveError,
    DistributedAttentionError,
    EagerAttentionError,
    FusedBackendError,
    LinearAttentionError,
    ScriptModuleError,
    UnsupportedAttentionError,
    UsageError,
)
from sinkscope.models import Session


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
            match=r"transformer_blocks.0.attn1 \(Attention, SanaLinear.*sites='\*.attn2'",
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


def test_caches() -> None:
    pipe = tiny.tiny_flux()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(CacheActiveError, match=r"FluxTransformer2DModel.*disable_cache\(\)"):
        looked_at(pipe)
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        )
    )
    with pytest.raises(CacheActiveError):
        looked_at(pipe)
    pipe.transformer.disable_cache()
    assert looked_at(pipe).calls == 8


def test_sharded_keys() -> None:
    pipe = tiny.tiny_flux()
    pipe.transformer._parallel_config = object()
    with pytest.raises(DistributedAttentionError, match="sharded"):
        looked_at(pipe)


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
    with pytest.raises(UsageError, match="expected a diffusers pipeline or a torch module"):
        Session(thing)


def test_pipelines_without_a_denoiser() -> None:
    class Pipeline:
        components = {"vae": nn.Identity()}  # noqa: RUF012

    with pytest.raises(UnsupportedAttentionError, match="has no denoiser.*among vae"):
        Session(Pipeline())
