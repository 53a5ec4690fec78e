"""Denoisers of diffusers that form their softmax where no session sees it are refused, and it is said why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
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
        extra_in_channels=64,
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
