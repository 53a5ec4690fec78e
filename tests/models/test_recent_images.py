"""What the shared family test cannot ask of newer image models: images to look at, caches, single rows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.zoo import SPECIMENS
from tests.zoo import image_recent as recent
from tests.zoo.image_bare import TEXT, _call, _ids, _noise
from tests.zoo.records import having
from torch import Tensor, nn

from sinkscope.attention import Keys, Mask
from sinkscope.errors import FusedBackendError, UsageError
from sinkscope.models import AttentionCall, Edit, Run, Session, attention_map, intervene, load

pytestmark = pytest.mark.zoo


def _calls(model: nn.Module, run: Any) -> list[AttentionCall]:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, go: Run) -> Tensor:
        calls.append(call)
        return go(call)

    with Session(model, handler):
        run(model)
    return calls


def _order(call: AttentionCall, row: int = 0) -> str:
    return ", ".join(dict.fromkeys(token.segment for token in call.tokens()[row]))


def _flux3(model: nn.Module) -> Tensor:
    places = torch.cat([_ids(4, 4), torch.zeros(16, 1)], 1)
    return _call(
        model,
        hidden_states=_noise(1, 16, 16),
        encoder_hidden_states=_noise(1, TEXT, 16),
        timestep=torch.ones(1),
        img_ids=places,
        txt_ids=torch.zeros(TEXT, 4),
    )


def _qwen_image21(model: nn.Module) -> Tensor:
    return _call(
        model,
        hidden_states=_noise(1, 16, 4),
        encoder_hidden_states=_noise(1, TEXT, 16),
        timestep=torch.full((1,), 0.5),
        img_shapes=[[(1, 4, 4)]],
        img_mask=torch.tensor([[False] * TEXT + [True] * 4]),
    )


def _fibo2(model: nn.Module) -> Tensor:
    return _call(
        model,
        hidden_states=_noise(1, 4, 8, 8),
        timestep=torch.full((1,), 0.5),
        encoder_hidden_states=_noise(1, 2, TEXT, 16),
    )


def _omnigen(model: nn.Module, ids: Iterable[int] = range(5, 5 + TEXT)) -> Tensor:
    count = TEXT + 1 + 16
    return _call(
        model,
        hidden_states=_noise(1, 4, 8, 8),
        timestep=torch.full((1,), 0.5),
        input_ids=torch.tensor([list(ids)]),
        input_img_latents=[],
        input_image_sizes={},
        attention_mask=torch.ones(1, count, count),
        position_ids=torch.arange(count)[None],
    )


def _joyimage(model: nn.Module) -> Tensor:
    return _call(
        model,
        hidden_states=_noise(1, 4, 1, 8, 8),
        timestep=torch.ones(1),
        encoder_hidden_states=_noise(1, TEXT, 16),
    )


@pytest.mark.parametrize(
    ("build", "run", "order"),
    [
        pytest.param(recent.flux3, _flux3, "text, image", marks=having("Flux3Transformer2DModel")),
        pytest.param(
            recent.qwen_image21, _qwen_image21, "text, image", marks=having("QwenImage21Transformer2DModel")
        ),
        pytest.param(recent.fibo2, _fibo2, "gist, image", marks=having("BriaFibo2Transformer2DModel")),
        pytest.param(recent.omnigen, _omnigen, "text, timestep, image"),
        pytest.param(
            recent.joyimage, _joyimage, "image, text", marks=having("JoyImageEditTransformer3DModel")
        ),
    ],
)
def test_without_images_to_look_at_the_configuration_tells_all(build: Any, run: Any, order: str) -> None:
    model = build()
    calls = _calls(model, run)
    joint = [call for call in calls if call.site.kind == "joint"]
    assert _order(joint[-1]) == order
    (part,) = attention_map(model, height=64, width=64, text=TEXT).parts  # four by four tokens
    assert part.calls is not None
    told = [(call.site.key, call.site.heads, call.queries, call.keys) for call in part.calls]
    assert told == [(call.site.key, call.site.heads, call.q.shape[2], call.k.shape[2]) for call in calls]
    for call, mapped in zip(calls, part.calls, strict=True):
        found = {name: int(mask.sum()) for name, mask in call.key_segments.items()}
        assert found == dict(mapped.key_segments)


def test_token_ids_are_the_text_of_omnigen() -> None:
    """Its text is no input of floats, so the probe says nothing of it: other ids must change those keys."""
    model = recent.omnigen()
    said = (range(2, 2 + TEXT), range(2 + TEXT, 2 + 2 * TEXT))
    before, after = (_calls(model, partial(_omnigen, ids=ids))[0] for ids in said)
    changed = (before.k != after.k).any(3).any(1)[0]
    assert torch.equal(changed, before.key_segments["text"])


@having("QwenImage21Transformer2DModel")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_blocks_of_flex_attention_are_refused_with_the_processor_to_use() -> None:
    from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21FlexAttnProcessor

    model = recent.qwen_image21()
    for block in model.transformer_blocks:
        block.attn.set_processor(QwenImage21FlexAttnProcessor())
    with (
        pytest.raises(
            FusedBackendError,
            match=r"blocks of flex attention.* Use its other one: "
            r"model\.set_attn_processor\(QwenImage21AttnProcessor\(\)\)\.",
        ),
        Session(model),
    ):
        _qwen_image21(model)


def test_folders_of_modular_pipelines_are_told_from_others(tmp_path: Path) -> None:
    (tmp_path / "modular_model_index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"holds a modular pipeline.*ModularPipeline\.from_pretrained"):
        load(tmp_path)


@having("GlmImageTransformer2DModel")
def test_glm_keeps_the_keys_of_images_to_look_at() -> None:
    from diffusers.models.transformers.transformer_glm_image import GlmImageKVCache

    model = recent.glm_image()
    caches = GlmImageKVCache(2)
    size = torch.full((1, 2), 16.0)
    shown: dict[str, Any] = {
        "encoder_hidden_states": _noise(1, 0, 16),
        "prior_token_id": torch.arange(8)[None],
        "prior_token_drop": torch.zeros(1, 8, dtype=torch.bool),
        "timestep": torch.zeros(1),
        "target_size": size,
        "crop_coords": torch.zeros(1, 2),
        "kv_caches": caches,
    }
    caches.set_mode("write")
    first = _calls(model, lambda m: _call(m, hidden_states=_noise(1, 4, 4, 8), **shown))
    assert {_order(call) for call in first} == {"reference"}
    caches.next_sample()
    caches.set_mode("read")
    painted = _calls(model, lambda m: recent.run_glm_image(m, kv_caches=caches, attention_mask=None))
    for call in painted:
        counts = {name: int(mask.sum(-1).max()) for name, mask in call.key_segments.items()}
        assert _order(call) == "reference, text, image"
        assert counts == {"reference": 8, "text": TEXT, "image": 16}
        assert set(call.query_segments) == {"text", "image"}
        assert torch.equal(call.k[0, :, :8], first[call.site.layer or 0].k[0])


@pytest.mark.parametrize("name", [name for name in ("ideogram4", "z-image") if name in SPECIMENS])
def test_an_edit_of_rows_that_are_padded_alike(name: str) -> None:
    """Where all rows end with the same padding one mask stands for all, and nothing may stumble over it."""
    specimen = SPECIMENS[name]
    pipe, changes = specimen.build(), {"prompt": "a cat", **(specimen.off or {})}
    changes = {key: value for key, value in changes.items() if key != "num_images_per_prompt"}
    plain = specimen.run(pipe, **changes)
    with intervene(pipe, Edit(Keys((40,)), Mask(), sites="*layers.1.*")):
        assert not torch.equal(specimen.run(pipe, **changes), plain)
    assert torch.equal(specimen.run(pipe, **changes), plain)
