"""What people put on a model: compilation, offloading, quantised weights, adapters, guidance by perturbation.

Each is seen like the plain model, or refused by name (`test_coverage.py`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tests import tiny
from tests.models.guard import dispatch_count, state
from torch import Tensor, nn

from sinkscope.attention import Mask, TopMass
from sinkscope.models import AttentionCall, Edit, Session, intervene, observe, sites


def record(pipe: Any, **changes: Any) -> list[AttentionCall]:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        calls.append(call)
        return run(call)

    with Session(pipe, handler):
        tiny.run(pipe, output_type="latent", **changes)
    return calls


def seen_whole(pipe: Any, **changes: Any) -> list[AttentionCall]:
    """Calls of a run in which nothing is missed, nothing changes and nothing stays behind."""
    plain = tiny.run(pipe, output_type="latent", **changes)
    before = state(pipe)
    with dispatch_count(pipe) as counted:
        tiny.run(pipe, output_type="latent", **changes)
    with Session(pipe, lambda call, run: run(call)) as session:
        handled = tiny.run(pipe, output_type="latent", **changes)
    assert session.calls == counted[0] > 0
    assert torch.equal(plain, handled)
    assert state(pipe) == before
    with intervene(pipe, Edit(TopMass(keys_per_head=1), Mask(), kind="all")) as receipt:
        edited = tiny.run(pipe, output_type="latent", **changes)
    assert not torch.allclose(plain, edited) and len(receipt.table())
    assert torch.equal(plain, tiny.run(pipe, output_type="latent", **changes))
    return record(pipe, **changes)


def denoiser(pipe: Any) -> Any:
    return getattr(pipe, "transformer", None) or pipe.unet


# ---- torch.compile


@pytest.mark.slow
def test_compiled_blocks() -> None:
    """Inside a block the compiled parts run eagerly; afterwards the compiled code is used again."""
    pipe = tiny.tiny_flux()
    eager = tiny.run(pipe, output_type="latent")
    expected = sites(pipe)
    pipe.transformer.compile_repeated_blocks(backend="eager")
    assert sites(pipe) == expected
    assert torch.allclose(tiny.run(pipe, output_type="latent"), eager, atol=1e-5)
    calls = record(pipe)
    assert [call.site.layer for call in calls] == [0, 1, 2, 3] * 2
    with observe(pipe) as seen:
        assert torch.equal(tiny.run(pipe, output_type="latent"), eager)
    assert len(seen.sinks(keys_per_head=1)) == 2 * 4 * 2
    assert torch.allclose(tiny.run(pipe, output_type="latent"), eager, atol=1e-5)


# ---- offloading


def test_disk_offload(tmp_path: Path) -> None:
    from accelerate import disk_offload

    pipe = tiny.tiny_pixart()
    plain = tiny.run(pipe, output_type="latent")
    disk_offload(pipe.transformer, str(tmp_path), execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in pipe.transformer.parameters()} == {"meta"}
    with Session(pipe, lambda call, run: run(call)) as session:
        assert torch.equal(tiny.run(pipe, output_type="latent"), plain)
    assert session.calls == 8


def test_model_offload_hooks() -> None:
    from accelerate import cpu_offload_with_hook

    pipe = tiny.tiny_sd3()
    plain = tiny.run(pipe, output_type="latent")
    _, hook = cpu_offload_with_hook(pipe.transformer, torch.device("cpu"))
    with Session(pipe, lambda call, run: run(call)) as session:
        assert torch.equal(tiny.run(pipe, output_type="latent"), plain)
    assert session.calls == 6 and hook is not None


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload(level: str) -> None:
    if diffusers.__version__.startswith("0.35"):
        pytest.skip("diffusers 0.35 offloads in groups only where there is an accelerator")
    pipe = tiny.tiny_flux()
    plain = tiny.run(pipe, output_type="latent")
    groups = {"num_blocks_per_group": 1} if level == "block_level" else {}
    cpu = torch.device("cpu")
    pipe.transformer.enable_group_offload(cpu, cpu, level, **groups)
    before = state(pipe)
    calls = record(pipe)
    assert [call.site.layer for call in calls] == [0, 1, 2, 3] * 2
    assert None not in {call.timestep for call in calls}, "hooks replace forward on the instance"
    with Session(pipe, lambda call, run: run(call)):
        assert torch.equal(tiny.run(pipe, output_type="latent"), plain)
    assert state(pipe) == before


# ---- quantised weights


def test_dynamically_quantised_weights() -> None:
    pipe = tiny.tiny_sd3()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pipe.transformer = torch.ao.quantization.quantize_dynamic(
            pipe.transformer, {nn.Linear}, dtype=torch.qint8
        )
        assert any("quantized" in type(part).__module__ for part in pipe.transformer.modules())
        seen_whole(pipe)


def test_weights_quantised_by_torchao() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    pipe = tiny.tiny_sd3()
    torchao.quantize_(pipe.transformer, torchao.Int8WeightOnlyConfig())
    assert any(type(part.weight).__name__ != "Parameter" for part in pipe.transformer.modules()
               if isinstance(part, nn.Linear))  # fmt: skip
    seen_whole(pipe)


def test_weights_quantised_by_bitsandbytes() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    pipe = tiny.tiny_sd3()
    for block in pipe.transformer.transformer_blocks:
        plain = block.attn.to_q
        block.attn.to_q = bitsandbytes.nn.Linear8bitLt(16, 16, has_fp16_weights=False).requires_grad_(False)
        block.attn.to_q.load_state_dict(plain.state_dict())
        block.attn.to_q.to("cpu")
    seen_whole(pipe)


# ---- adapters


def test_lora_layers() -> None:
    peft = pytest.importorskip("peft")
    pipe = tiny.tiny_sd3()
    plain = tiny.run(pipe, output_type="latent")
    expected = sites(pipe)
    torch.manual_seed(0)
    pipe.transformer.add_adapter(
        peft.LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    )
    assert sites(pipe) == expected
    calls = seen_whole(pipe)
    assert {tuple(call.key_segments)[:2] for call in calls} == {("image", "text")}
    pipe.transformer.disable_adapters()
    assert torch.allclose(tiny.run(pipe, output_type="latent"), plain, atol=1e-6)


def test_models_wrapped_by_peft() -> None:
    """`get_peft_model` puts the model inside another; its sites keep their layers under longer names."""
    peft = pytest.importorskip("peft")
    model = tiny.clip_encoder().eval()
    ids = torch.randint(0, 20, (1, tiny.TEXT))
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    seen: list[int | None] = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        seen.append(call.site.layer)
        return run(call)

    with torch.no_grad(), Session(wrapped, handler):
        wrapped(input_ids=ids)
    assert seen == [0, 1]


def ip_adapter(unet: Any, tokens: int = 4, width: int = 12) -> dict[str, dict[str, Tensor]]:
    """Random weights of an IP-Adapter in the layout of the released files."""
    dim = unet.config.cross_attention_dim
    image = {
        "proj.weight": torch.randn(tokens * dim, width),
        "proj.bias": torch.randn(tokens * dim),
        "norm.weight": torch.ones(dim),
        "norm.bias": torch.zeros(dim),
    }
    attention = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            inner = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):
                attention[f"{number}.{part}.weight"] = torch.randn(inner, dim)
    return {"image_proj": image, "ip_adapter": attention}


def test_ip_adapter_makes_a_second_call_of_its_own() -> None:
    pipe = tiny.tiny_sd15()
    torch.manual_seed(0)
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
    calls = seen_whole(pipe, ip_adapter_image_embeds=[torch.randn(2, 1, 12)])
    crosses = [call for call in calls if call.site.kind == "cross"]
    assert [call.site.index for call in crosses] == [0, 1] * (len(crosses) // 2)
    text, image = crosses[:2]
    assert text.k.shape[2] == tiny.TEXT and "text" in text.key_segments
    assert image.k.shape[2] == 4 and "text" not in image.key_segments
    assert {token.text for token in image.tokens()[0]} == {None}
    assert [info.branch for info in image.rows] == ["uncond", "cond"]


def control_pipe() -> Any:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    pipe = tiny.tiny_sd15()
    torch.manual_seed(1)
    controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 8)).eval()
    for parameter in controlnet.parameters():
        if not parameter.any():
            parameter.data = 0.1 * torch.randn_like(parameter)
    made = StableDiffusionControlNetPipeline(**pipe.components, controlnet=controlnet)
    made.set_progress_bar_config(disable=True)
    return made


def test_a_controlnet_is_no_denoiser_but_may_be_watched_itself() -> None:
    pipe = control_pipe()
    inputs = {"image": torch.rand(1, 3, 16, 16), "output_type": "latent"}

    def run(**changes: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe(
            prompt="a cat",
            num_inference_steps=2,
            generator=generator,
            height=16,
            width=16,
            **inputs,
            **changes,
        ).images

    plain = run()
    assert not torch.equal(plain, run(controlnet_conditioning_scale=0.0))
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, native: Any) -> Tensor:
        calls.append(call)
        return native(call)

    with Session(pipe, handler):
        assert torch.equal(run(), plain)
    assert len(calls) == 2 * len(sites(pipe)), "only the denoiser's"
    assert {call.step for call in calls} == {0, 1}
    with Session(pipe.controlnet, handler) as own:
        assert torch.equal(run(), plain)
    assert own.calls == 2 * len(sites(pipe.controlnet)) == 2 * 4
    assert {site.kind for site in sites(pipe.controlnet)} == {"self", "cross"}
    with intervene(pipe.controlnet, Edit(TopMass(keys_per_head=1), Mask(), kind="self")):
        assert not torch.equal(run(), plain)
    assert torch.equal(run(), plain)


# ---- guidance by perturbation


def test_skip_layer_guidance_is_one_more_evaluation_of_the_prompt() -> None:
    options = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": -0.1,
        "skip_layer_guidance_stop": 1.0,
        "skip_layer_guidance_scale": 2.0,
    }
    calls = seen_whole(tiny.tiny_sd3(), **options)
    found = [(call.step, call.evaluation, call.site.layer) for call in calls]
    assert found == [
        (step, 2 * step + extra, layer)
        for step in (0, 1)
        for extra, layers in ((0, (0, 1, 2)), (1, (0, 2)))
        for layer in layers
    ]
    branches = {call.evaluation: [info.branch for info in call.rows] for call in calls}
    assert branches == {0: ["uncond", "cond"], 1: ["cond"], 2: ["uncond", "cond"], 3: ["cond"]}


def test_perturbed_attention_guidance_gets_no_branches() -> None:
    """Three kinds of rows are not two sides of guidance; nothing is guessed."""
    from diffusers import StableDiffusion3PAGPipeline

    plain = tiny.tiny_sd3()
    parts = {name: part for name, part in plain.components.items() if part is not None}
    pipe = StableDiffusion3PAGPipeline(**parts, pag_applied_layers=["blocks.1"])
    pipe.set_progress_bar_config(disable=True)
    calls = seen_whole(pipe, pag_scale=3.0)
    assert {info.branch for call in calls for info in call.rows} == {"none"}
    rows = [(call.site.layer, call.site.index, call.q.shape[0]) for call in calls if call.step == 0]
    assert rows == [(0, 0, 3), (1, 0, 2), (1, 1, 1), (2, 0, 3)]


def test_smoothed_energy_guidance_is_seen_as_it_is() -> None:
    from diffusers.hooks.smoothed_energy_guidance_utils import (
        SmoothedEnergyGuidanceConfig,
        _apply_smoothed_energy_guidance_hook,
    )

    pipe = tiny.tiny_pixart()
    plain = record(pipe)
    config = SmoothedEnergyGuidanceConfig(indices=[1], fqn="transformer_blocks")
    _apply_smoothed_energy_guidance_hook(pipe.transformer, config, blur_sigma=1.0)
    blurred = seen_whole(pipe)
    same = [torch.equal(one.q, other.q) for one, other in zip(plain, blurred, strict=True)]
    assert same[:2] == [True, True] and not same[2]
