"""What every family must do; adding a family means adding a `Specimen` to `tests/zoo`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import tiny
from tests.models.guard import dispatch_count, state
from tests.zoo import SPECIMENS, Specimen

from sinkscope.models import AttentionCall, Session, probe_layout, sites
from sinkscope.models._denoiser import denoisers

_built: dict[str, Any] = {}
_run: dict[int, Any] = {}


@pytest.fixture(params=list(SPECIMENS))
def specimen(request: pytest.FixtureRequest) -> Specimen:
    return SPECIMENS[request.param]


@pytest.fixture
def family(specimen: Specimen) -> str:
    return specimen.name


@pytest.fixture
def pipe(specimen: Specimen) -> Any:
    if specimen.name not in _built:
        _built[specimen.name] = specimen.build()
        _run[id(_built[specimen.name])] = specimen.run
    return _built[specimen.name]


def latents(pipe: Any, **changes: Any) -> torch.Tensor:
    return _run[id(pipe)](pipe, **changes)


_recorded: dict[str, list[AttentionCall]] = {}


def record(pipe: Any, **changes: Any) -> list[AttentionCall]:
    """Calls of a run; the same run is not made twice."""
    key = f"{id(pipe)} {changes}"
    if key not in _recorded:
        _recorded[key] = _record(pipe, **changes)
    return _recorded[key]


def _record(pipe: Any, **changes: Any) -> list[AttentionCall]:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        calls.append(call)
        return run(call)

    with Session(pipe, handler):
        latents(pipe, **changes)
    return calls


def test_every_call_is_seen_once_and_nothing_changes(pipe: Any) -> None:
    plain = latents(pipe)  # transformers installs hooks of its own in the first run
    before = state(pipe)
    with dispatch_count(pipe) as counted:
        latents(pipe)
    with Session(pipe, lambda call, run: run(call)) as session:
        handled = latents(pipe)
    with Session(pipe):
        empty = latents(pipe)
    assert session.calls == counted[0] > 0
    assert torch.equal(plain, handled)
    assert torch.equal(plain, empty)
    assert state(pipe) == before
    assert torch.equal(plain, latents(pipe))


def test_an_edit_reaches_the_output(pipe: Any) -> None:
    plain = latents(pipe)
    with Session(pipe, lambda call, run: torch.zeros_like(run(call))):
        changed = latents(pipe)
    assert not torch.allclose(plain, changed)
    assert torch.equal(plain, latents(pipe))


def test_attribution_agrees_with_the_static_sites(pipe: Any) -> None:
    calls = record(pipe)
    known = {site.name: site for site in sites(pipe)}
    for call in calls:
        static = known[call.site.name]
        assert call.site.heads == call.q.shape[1] == static.heads
        assert (call.site.layer, call.site.kind) == (static.layer, static.kind)
        assert call.q.dim() == call.k.dim() == call.v.dim() == 4
    per_pass = len(calls) // 2
    keys = [call.site.key for call in calls[:per_pass]]
    assert len(set(keys)) == per_pass == len(known)
    layers = [call.site.layer for call in calls[:per_pass]]
    assert layers == sorted(layers), "layers are numbered in the order in which they run"


def test_steps_timesteps_and_generations(pipe: Any) -> None:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> torch.Tensor:
        calls.append(call)
        return run(call)

    with Session(pipe, handler):
        latents(pipe)
        latents(pipe, num_inference_steps=3)
    seen = sorted({(call.generation, call.step, call.step_count) for call in calls})
    assert seen == [(0, 0, 2), (0, 1, 2), (1, 0, 3), (1, 1, 3), (1, 2, 3)]
    for generation in (0, 1):
        times = {call.step: call.timestep for call in calls if call.generation == generation}
        assert None not in times.values()
        assert sorted(times.values(), reverse=True) == [times[step] for step in sorted(times)]
    assert torch.equal(latents(pipe), latents(pipe))


def test_branches_of_a_batch_of_two_prompts(pipe: Any, family: str) -> None:
    calls = record(pipe, prompt=["a cat", "an owl"], num_inference_steps=1)
    pairs = {tuple((info.branch, info.unit) for info in call.rows) for call in calls}
    if family == "flux":
        assert pairs == {(("none", 0), ("none", 1))}
    else:
        assert pairs == {(("uncond", 0), ("uncond", 1), ("cond", 0), ("cond", 1))}


def test_branches_without_guidance(pipe: Any) -> None:
    calls = record(pipe, guidance_scale=1.0, num_inference_steps=1, num_images_per_prompt=2)
    assert {tuple((info.branch, info.unit) for info in call.rows) for call in calls} == {
        (("none", 0), ("none", 1))
    }


def test_cond_rows_are_those_the_prompt_changes(pipe: Any) -> None:
    """Independent of how branches are found: only rows of the prompt may differ between two prompts."""
    one, other = (record(pipe, prompt=prompt, num_inference_steps=1) for prompt in ("a cat", "an owl"))
    for a, b in zip(one, other, strict=True):
        if a.site.layer == 0 and "text" in a.key_segments:
            changed = [not torch.equal(a.k[info.row], b.k[info.row]) for info in a.rows]
            assert changed == [info.branch != "uncond" for info in a.rows]


def test_the_table_agrees_with_the_probe(pipe: Any) -> None:
    """Segments come from a table for listed families; perturbing the inputs must find the same."""
    captured: list[tuple[Any, Any]] = []
    root = next(iter(denoisers(pipe).values()))
    handle = root.register_forward_pre_hook(
        lambda module, args, kwargs: captured.append((args, kwargs)), with_kwargs=True
    )
    calls = record(pipe, num_inference_steps=1)
    handle.remove()
    labels = probe_layout(root, *captured[0])
    assert set(labels) == {call.site.key for call in calls}
    for call in calls:
        found = labels[call.site.key]
        for tokens, segments in ((found.keys, call.key_segments), (found.queries, call.query_segments)):
            named = {name for name in tokens if name is not None}
            assert named <= {"image", "text"} and None not in tokens
            for name in named:
                assert segments[name].tolist() == [token == name for token in tokens]
            assert named == {name for name in segments if name in ("image", "text")}


def test_the_probe_disturbs_nothing(pipe: Any) -> None:
    captured: list[tuple[Any, Any]] = []
    root = next(iter(denoisers(pipe).values()))
    handle = root.register_forward_pre_hook(
        lambda module, args, kwargs: captured.append((args, kwargs)), with_kwargs=True
    )
    plain = latents(pipe)
    handle.remove()
    before, random = state(pipe), torch.get_rng_state()
    with Session(pipe, lambda call, run: run(call)) as session:
        probe_layout(root, *captured[0])
    assert session.calls == 0
    assert state(pipe) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(plain, latents(pipe))


def test_image_keys_form_a_grid(pipe: Any) -> None:
    for call in record(pipe, num_inference_steps=1):
        if "image" not in call.key_segments:
            continue
        grid = [(t.row, t.column) for t in call.tokens()[0] if t.segment == "image"]
        side = int(len(grid) ** 0.5)
        assert grid == [(row, column) for row in range(side) for column in range(side)]


def test_text_keys_have_names(pipe: Any, family: str) -> None:
    calls = record(pipe, num_inference_steps=1)
    call = next(call for call in calls if "text" in call.key_segments)
    rows = {info.branch: call.tokens()[info.row] for info in call.rows}
    row = [token for token in rows.get("cond", rows.get("none", ())) if token.segment == "text"]
    assert [token.position for token in row] == list(range(len(row)))
    content = "".join(token.text or "" for token in row if token.role == "content").replace("▁", "")
    expected = {"sd3": "acatacat", "sd35": "acatacat"}.get(family, "acat")
    assert content == expected
    clip = [token for token in row if token.encoder and "text_encoder_3" not in token.encoder]
    if family in ("sd3", "sd35", "sdxl"):
        assert clip[0].encoder == "text_encoder+text_encoder_2"
        assert [t.role for t in clip] == ["bos"] + ["content"] * 4 + ["eos"] + ["pad"] * (tiny.TEXT - 6)
        assert clip[-1].text == "<|endoftext|> / !", (
            "CLIP-L pads with its end mark, CLIP-G with another token"
        )
    if family in ("flux", "pixart"):
        assert "bos" not in {token.role for token in row}
        assert [token.text for token in row if token.role == "eos"] == ["</s>"]
        assert {token.text for token in row if token.role == "pad"} == {"<pad>"}
