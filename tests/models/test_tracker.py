"""Steps and branches under many schedulers and kinds of guidance."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from tests import tiny

from sinkscope.models import AttentionCall, Session

SHARED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def record(pipe: Any, **changes: Any) -> list[AttentionCall]:
    """First-site calls of a run: one per denoiser evaluation."""
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        if call.site.layer == 0 and not calls[-1:] or call.evaluation != calls[-1].evaluation:
            calls.append(call)
        return run(call)

    with Session(pipe, handler):
        tiny.run(pipe, output_type="latent", **changes)
    return calls


def branches(call: AttentionCall) -> list[str]:
    return [row.branch for row in call.rows]


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (EulerDiscreteScheduler(**SHARED), [0, 1, 2]),
        (DDIMScheduler(**SHARED, clip_sample=False), [0, 1, 2]),
        (HeunDiscreteScheduler(**SHARED), [0, 1, 2, 3, 4]),
        (LCMScheduler(**SHARED), [0, 1, 2]),
        (UniPCMultistepScheduler(**SHARED), [0, 1, 2]),
        (DPMSolverMultistepScheduler(**SHARED), [0, 1, 2]),
        (PNDMScheduler(**SHARED, skip_prk_steps=True), [0, 1, 2, 3]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_steps_count_completed_scheduler_steps(scheduler: Any, steps: list[int]) -> None:
    pipe = tiny.tiny_sd15()
    pipe.scheduler = scheduler
    plain = tiny.run(pipe, output_type="latent", num_inference_steps=3)
    calls = record(pipe, num_inference_steps=3)
    assert [call.step for call in calls] == steps
    assert {call.step_count for call in calls} == {len(steps)}
    assert [call.timestep for call in calls] == [float(t) for t in scheduler.timesteps]
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None:
        assert [call.sigma for call in calls] == [float(sigmas[step]) for step in steps]
    assert torch.equal(tiny.run(pipe, output_type="latent", num_inference_steps=3), plain)


def test_flow_matching_heun() -> None:
    pipe = tiny.tiny_sd3()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    assert [call.step for call in record(pipe, num_inference_steps=3)] == [0, 1, 2, 3, 4]


def test_wrapped_methods_keep_their_signatures() -> None:
    pipe = tiny.tiny_sd15()
    plain = [inspect.signature(method) for method in (pipe.scheduler.step, pipe.scheduler.set_timesteps)]
    with Session(pipe):
        inside = [inspect.signature(method) for method in (pipe.scheduler.step, pipe.scheduler.set_timesteps)]
    assert inside == plain


def test_custom_timesteps_reach_the_scheduler() -> None:
    calls = record(tiny.tiny_sdxl(), num_inference_steps=None, timesteps=[900, 500, 100])
    assert [call.timestep for call in calls] == [900.0, 500.0, 100.0]


def test_a_scheduler_swapped_inside_the_session_is_followed() -> None:
    pipe = tiny.tiny_sd15()
    steps: list[int] = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        steps.append(call.step)
        return run(call)

    with Session(pipe, handler, sites="mid_block*.attn1"):
        tiny.run(pipe, output_type="latent")
        first, pipe.scheduler = pipe.scheduler, EulerDiscreteScheduler(**SHARED)
        tiny.run(pipe, output_type="latent")
    assert steps == [0, 1, 0, 1]
    assert not {"step", "set_timesteps"} & {*vars(first), *vars(pipe.scheduler)}


def test_skip_layer_guidance_adds_a_cond_only_call() -> None:
    calls = record(
        tiny.tiny_sd35(),
        num_inference_steps=4,
        skip_guidance_layers=[1],
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=0.6,
    )
    assert [(call.step, branches(call)) for call in calls] == [
        (0, ["uncond", "cond"]),
        (1, ["uncond", "cond"]),
        (1, ["cond"]),
        (2, ["uncond", "cond"]),
        (2, ["cond"]),
        (3, ["uncond", "cond"]),
    ]


@pytest.mark.parametrize("negative", ["", "a cat", "an owl"])
def test_two_call_guidance(negative: str) -> None:
    calls = record(tiny.tiny_flux(), negative_prompt=negative, true_cfg_scale=3.0)
    assert [(call.step, *branches(call)) for call in calls] == [
        (0, "cond"),
        (0, "uncond"),
        (1, "cond"),
        (1, "uncond"),
    ]
    text = {branches(call)[0]: call.tokens()[0] for call in calls}
    for branch, prompt in (("cond", "a cat"), ("uncond", negative)):
        content = [token.text for token in text[branch] if token.role == "content"]
        assert "".join(map(str, content)).replace("▁", "") == prompt.replace(" ", "")


def test_unannounced_two_call_guidance_is_told_by_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Chroma, Lumina2 and Kandinsky5 do it."""
    from contextlib import nullcontext

    pipe = tiny.tiny_flux()
    monkeypatch.setattr(type(pipe.transformer), "cache_context", lambda self, name: nullcontext())
    session_calls = record(pipe, negative_prompt="an owl", true_cfg_scale=3.0)
    # The class announces by another method here, so the session cannot read it.
    assert [branches(call)[0] for call in session_calls] == ["cond", "uncond"] * 2


def test_equal_prompts_fall_back_to_the_family_order() -> None:
    calls = record(tiny.tiny_sd3(), prompt="a cat", negative_prompt="a cat")
    assert [branches(call) for call in calls] == [["uncond", "cond"]] * 2


def test_the_other_order_is_found_by_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.tiny_pixart()
    forward = pipe.transformer.forward

    def turned(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    root = pipe.transformer
    root.forward = turned

    # Turn the rows around before the session's own hook sees them, as a pipeline with [cond, uncond] would
    # pass them.
    def swap(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        for name in ("encoder_hidden_states", "encoder_attention_mask"):
            kwargs[name] = kwargs[name].flip(0)
        return args, kwargs

    handle = root.register_forward_pre_hook(swap, with_kwargs=True)
    calls = record(pipe)
    handle.remove()
    assert [branches(call) for call in calls] == [["cond", "uncond"]] * 2


def test_units_of_several_prompts_and_images() -> None:
    pipe = tiny.tiny_sd3()
    calls = record(pipe, prompt=["a cat", "an owl"], num_images_per_prompt=2, num_inference_steps=1)
    assert [row.unit for row in calls[0].rows] == [0, 1, 2, 3] * 2
    words = []
    for row, tokens in zip(calls[0].rows, calls[0].tokens(), strict=True):
        if row.branch == "cond":
            words.append(
                "".join(t.text or "" for t in tokens if t.role == "content" and "3" not in str(t.encoder))
            )
    assert words == ["acat", "acat", "anowl", "anowl"]


def test_the_next_generation_has_its_own_prompts() -> None:
    pipe = tiny.tiny_sd15()
    words: dict[int, str] = {}

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        if call.site.kind == "cross":
            words[call.generation] = "".join(str(t.text) for t in call.tokens()[1] if t.role == "content")
        return run(call)

    with Session(pipe, handler):
        for prompt in ("a cat", "an owl"):
            tiny.run(pipe, prompt=prompt, output_type="latent")
    assert words == {0: "acat", 1: "anowl"}


def test_a_prompt_encoded_beforehand_is_not_taken_for_the_prompt() -> None:
    pipe = tiny.tiny_flux()
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        calls.append(call)
        return run(call)

    with Session(pipe, handler):
        pipe.encode_prompt("an owl", "an owl", max_sequence_length=tiny.T5_TEXT)
        tiny.run(pipe, output_type="latent")
    assert branches(calls[0]) == ["none"]
    content = [token.text for token in calls[0].tokens()[0] if token.role == "content"]
    assert "".join(map(str, content)).replace("▁", "") == "acat"


def test_prompt_embeddings_without_text_have_unknown_tokens() -> None:
    pipe = tiny.tiny_sd15()
    embeddings, negative = pipe.encode_prompt("a cat", "cpu", 1, True)
    with torch.no_grad():
        calls = record(pipe, prompt=None, prompt_embeds=embeddings, negative_prompt_embeds=negative)
    assert branches(calls[0]) == ["uncond", "cond"]
    cross: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        if call.site.kind == "cross":
            cross.append(call)
        return run(call)

    with Session(pipe, handler):
        tiny.run(
            pipe, prompt=None, prompt_embeds=embeddings, negative_prompt_embeds=negative, output_type="latent"
        )
    assert {token.text for token in cross[0].tokens()[1]} == {None}
    assert "padding" not in cross[0].key_segments


def test_sdxl_without_a_negative_prompt_has_no_negative_tokens() -> None:
    """Its embedding is all zeros; no text stands behind it."""
    pipe = tiny.tiny_sdxl()
    cross: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        if call.site.kind == "cross":
            cross.append(call)
        return run(call)

    with Session(pipe, handler):
        tiny.run(pipe, output_type="latent")
    uncond, cond = cross[0].tokens()
    assert {(t.text, t.role, t.encoder) for t in uncond} == {(None, None, None)}
    assert "content" in {t.role for t in cond}


def test_image_to_image_counts_the_steps_that_run() -> None:
    from diffusers import StableDiffusion3Img2ImgPipeline

    pipe = StableDiffusion3Img2ImgPipeline.from_pipe(tiny.tiny_sd3())
    pipe.set_progress_bar_config(disable=True)
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        calls.append(call)
        return run(call)

    arguments = tiny.call_arguments(pipe, num_inference_steps=4, strength=0.5, output_type="latent")
    with Session(pipe, handler):
        pipe(**arguments, image=torch.rand(1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    assert [(call.step, call.step_count) for call in calls] == [(0, 2)] * 3 + [(1, 2)] * 3
    assert [call.sigma for call in calls[::3]] == [float(sigma) for sigma in pipe.scheduler.sigmas[2:4]]


class Guided:
    """A pipeline reduced to what the tracker reads: a denoiser, `encode_prompt` and the guidance flag."""

    scheduler = None

    def __init__(self, embeddings: Any, guided: bool = True) -> None:
        self.transformer = tiny.tiny_sd3().transformer
        self.components = {"transformer": self.transformer}
        self.embeddings, self.do_classifier_free_guidance = embeddings, guided

    def encode_prompt(self) -> Any:
        return self.embeddings

    def __call__(self, latents: torch.Tensor, text: torch.Tensor) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []

        def handler(call: AttentionCall, run: Any) -> torch.Tensor:
            found[:] = [(row.branch, row.unit) for row in call.rows]
            return run(call)

        with torch.no_grad(), Session(self, handler):
            self.encode_prompt()
            rows = len(latents)
            self.transformer(latents, text, torch.zeros(rows, 32), torch.ones(rows))
        return found


def test_embeddings_that_come_concatenated() -> None:
    latents, text = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1), torch.randn(2, 5, 32)
    assert Guided(text)(latents, text) == [("uncond", 0), ("cond", 0)]
    assert Guided(text, guided=False)(latents, text) == [("none", 0), ("none", 1)]


def test_more_than_two_sides_are_not_called_cond() -> None:
    cond, uncond = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    text, latents = torch.cat([uncond, cond, cond]), torch.randn(1, 4, 8, 8).repeat(3, 1, 1, 1)
    assert Guided((cond, uncond))(latents, text) == [("none", 0)] * 3


def test_pipelines_that_encode_nothing() -> None:
    """Class-conditional models: equal halves of the latents tell that guidance runs in one batch."""
    latents, text = torch.randn(2, 4, 8, 8), torch.randn(4, 5, 32)
    assert Guided(None)(latents.repeat(2, 1, 1, 1), text) == [
        ("uncond", 0),
        ("uncond", 1),
        ("cond", 0),
        ("cond", 1),
    ]
    assert Guided(None)(torch.randn(2, 4, 8, 8), text[:2]) == [("none", 0), ("none", 1)]


def test_two_experts_have_their_own_sites() -> None:
    pipe = Guided(None)
    pipe.components["transformer_2"] = tiny.tiny_sd3(1).transformer
    seen = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        seen.append((call.site.name, call.step))
        return run(call)

    inputs = (torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32), torch.zeros(1, 32), torch.ones(1))
    with torch.no_grad(), Session(pipe, handler, sites="*.0.attn"):
        for part in ("transformer", "transformer_2"):
            pipe.components[part](*inputs)
    assert seen == [
        ("transformer.transformer_blocks.0.attn", 0),
        ("transformer_2.transformer_blocks.0.attn", 1),
    ]
