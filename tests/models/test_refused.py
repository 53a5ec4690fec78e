"""Denoisers of diffusers that form their softmax where no session sees it are refused, and it is said why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests import tiny
from tests.zoo import recent_video as recent
from tests.zoo.bare_video import _noise, awake
from tests.zoo.records import having

import sinkscope as sk
from sinkscope.errors import EagerAttentionError, FusedBackendError, LinearAttentionError
from sinkscope.models import sites


def _looked_at(model: Any, run: Callable[[], Any], **options: Any) -> Any:
    with sk.observe(model, **options) as seen, torch.no_grad():
        run()
    return seen


@having("AnyFlowFARTransformer3DModel")
def test_frames_that_attend_by_block_masks() -> None:
    """The rest of such a model can be observed."""
    model = recent.anyflow_far()
    plain = recent.run_anyflow_far(model)
    with pytest.raises(
        FusedBackendError,
        match=r"^blocks\.0\.attn1 .*AnyFlowCausalAttnProcessor\) takes its mask as blocks of flex attention, "
        r"which never forms softmax weights\. Restrict the session to other sites: sites='\*\.attn2'\.",
    ):
        _looked_at(model, lambda: recent.run_anyflow_far(model), kind="self")
    seen = _looked_at(model, lambda: recent.run_anyflow_far(model), sites="*.attn2")
    assert set(seen.sinks()["segment"]) == {"text"}
    assert torch.equal(plain, recent.run_anyflow_far(model))


@having("WanAnimate2Transformer3DModel")
def test_generation_that_looks_at_a_cached_reference() -> None:
    """Wan Animate 2: the pass over the reference is seen, of the others the attention to text and picture."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    sizes = {"dim": 24, "ffn_dim": 32, "freq_dim": 16, "text_dim": 16, "num_heads": 2, "num_layers": 1}
    model = awake("WanAnimate2Transformer3DModel", **sizes, in_dim=12, out_dim=4, text_len=8)
    cache, grid = WanAnimate2KVCache(1), torch.tensor([[2, 2, 3]])

    def run(mode: str, frames: int, **more: Any) -> Any:
        return model(
            hidden_states=[_noise(4, frames, 4, 6)],
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=[_noise(5, 16)],
            condition_latents=[_noise(8, frames, 4, 6, seed=2)],
            kv_cache=cache,
            kv_cache_mode=mode,
            seq_len=6 * frames,
            encoder_hidden_states_image=_noise(1, 7, 1280),
            **more,
        )

    seen = _looked_at(model, lambda: run("extract", 2, offset_grid_sizes=grid), sites="*")
    names = set(seen.sinks()["site"].str.partition("#")[0])
    assert names == {"blocks.0.self_attn", "blocks.0.cross_attn"}
    later = {"reference_grid_sizes": grid, "origin_len": 5, "origin_area": [32, 48]}
    with pytest.raises(FusedBackendError, match=r"self_attn .*flex attention.*sites='\*\.cross_attn'"):
        _looked_at(model, lambda: run("cached", 3, **later), sites="*")
    seen = _looked_at(model, lambda: run("cached", 3, **later), sites="*.cross_attn")
    assert set(seen.sinks()["site"].str.partition("#")[0]) == {"blocks.0.cross_attn"}


@having("Kandinsky6SRTransformer3DModel")
def test_super_resolution_by_block_masks() -> None:
    model = awake(
        "Kandinsky6SRTransformer3DModel",
        in_visual_dim=4,
        out_visual_dim=8,
        time_dim=16,
        model_dim=32,
        ff_dim=32,
        num_visual_blocks=1,
        axes_dims=(4, 6, 6),
    )
    inputs = {"hidden_states": _noise(1, 1, 8, 8, 9), "timestep": torch.tensor([500.0])}
    with pytest.raises(FusedBackendError, match=r"as blocks of flex attention.*The model has no other\."):
        _looked_at(model, lambda: model(**inputs), kind="all")


def test_unet_of_waveforms() -> None:
    """Dance Diffusion writes its softmax out."""
    model = awake(
        "UNet1DModel",
        sample_size=64,
        extra_in_channels=16 if tiny.OLDER else 64,  # as many as the time has features
        block_out_channels=(32, 32, 64),
        use_timestep_embedding=False,
    )
    inputs = {"sample": _noise(1, 2, 64), "timestep": torch.tensor([5])}
    with pytest.raises(
        EagerAttentionError,
        match=r"SelfAttention1d\) ran softmax outside F\.scaled_dot_product_attention\. diffusers has no "
        r"SDPA path for this module\. The model has no other\.",
    ):
        _looked_at(model, lambda: model(**inputs), sites="*")


@having("SanaVideoTransformer3DModel")
def test_linear_attention_of_videos() -> None:
    model = recent.sana_video()
    with pytest.raises(LinearAttentionError, match=r"attn1 .*never forms softmax weights.*sites='\*\.attn2'"):
        _looked_at(model, lambda: recent.run_sana_video(model), kind="self")


def test_faces_shown_by_attention_that_is_written_out() -> None:
    model = recent.consisid()
    hidden = [site.name for site in sites(model) if not site.name.endswith("attn1")]
    assert len(hidden) == 7
    with pytest.raises(EagerAttentionError, match=r"no SDPA path for this module.*sites='\*\.attn1'"):
        _looked_at(model, lambda: recent.run_consisid(model), sites="perceiver*")
