"""Segments and tokens of models that no table names, and the details of text tokens."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import diffusers
import pytest
import torch
import transformers
from tests import tiny
from torch import Tensor, nn

from sinkscope.models import AttentionCall, RowInfo, Session, Site, Token, probe_layout
from sinkscope.models._grid import image_grid
from sinkscope.models._prompts import Captured, Prompts
from sinkscope.models._tokens import text_parts, text_tokens


def calls_of(model: nn.Module, **inputs: Any) -> list[AttentionCall]:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        calls.append(call)
        return run(call)

    torch.manual_seed(0)
    model.eval()
    with torch.no_grad():
        plain = model(**inputs)[0]
        with Session(model, handler):
            assert torch.equal(model(**inputs)[0], plain)
    return calls


def runs(segments: Any, count: int) -> list[tuple[str, int]]:
    names = [next((name for name in segments if segments[name][i]), "-") for i in range(count)]
    return [(name, len(list(group))) for name, group in groupby(names)]


def keys(call: AttentionCall) -> list[tuple[str, int]]:
    return runs(call.key_segments, call.k.shape[2])


def queries(call: AttentionCall) -> list[tuple[str, int]]:
    return runs(call.query_segments, call.q.shape[2])


def test_registers_stand_before_text_and_image() -> None:
    model = diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=16,
        out_channels=4,
        pos_embed_max_size=64,
    )
    calls = calls_of(
        model,
        hidden_states=torch.randn(2, 4, 8, 8),
        encoder_hidden_states=torch.randn(2, 5, 16),
        timestep=torch.ones(2),
    )
    for call in calls:
        assert keys(call) == queries(call) == [("register", 8), ("text", 5), ("image", 16)]
    tokens = calls[0].tokens()[0]
    assert (tokens[8].segment, tokens[8].position, tokens[8].text) == ("text", 0, None)
    assert (tokens[-1].row, tokens[-1].column) == (3, 3)


def test_refiners_and_per_sample_concatenation() -> None:
    model = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(32, 32, 32),
        cap_feat_dim=16,
    )
    calls = calls_of(
        model,
        hidden_states=torch.randn(2, 4, 8, 8),
        encoder_hidden_states=torch.randn(2, 6, 16),
        timestep=torch.ones(2),
        encoder_attention_mask=torch.ones(2, 6, dtype=torch.bool),
    )
    assert [(call.site.layer, keys(call)) for call in calls] == [
        (None, [("text", 6)]),
        (None, [("image", 16)]),
        (0, [("text", 6), ("image", 16)]),
    ]


def test_video_and_cross_attention() -> None:
    model = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=256,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=32,
    )
    own, cross = calls_of(
        model,
        hidden_states=torch.randn(1, 4, 2, 8, 8),
        encoder_hidden_states=torch.randn(1, 8, 16),
        timestep=torch.tensor([1]),
    )
    assert (own.site.kind, keys(own)) == ("self", [("video", 32)])
    assert (cross.site.kind, keys(cross), queries(cross)) == ("cross", [("text", 8)], [("video", 32)])
    token = own.tokens()[0][16 + 5]
    assert (token.frame, token.row, token.column) == (1, 1, 1)


def test_one_call_per_sample() -> None:
    model = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=4,
        max_sequence_length=8,
    )
    with pytest.warns(UserWarning, match="CPU autocast"):
        calls = calls_of(
            model,
            hidden_states=torch.randn(2, 4, 1, 8, 8),
            encoder_hidden_states=torch.randn(2, 8, 16),
            timestep=torch.tensor([1, 1]),
            encoder_attention_mask=torch.ones(2, 8, dtype=torch.bool),
        )
    joint = [call for call in calls if call.site.layer == 0]
    assert [(call.site.index, call.rows) for call in joint] == [
        (0, (RowInfo(0, "none", 0),)),
        (1, (RowInfo(0, "none", 1),)),
    ]
    assert keys(joint[0]) == [("video", 16), ("text", 8)]


def test_special_tokens_of_a_vision_transformer() -> None:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
    )
    for call in calls_of(transformers.ViTModel(config), pixel_values=torch.randn(1, 3, 8, 8)):
        assert keys(call) == [("cls", 1), ("image", 4)]


def test_models_without_float_inputs_have_no_segments() -> None:
    class SelfAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attn = nn.Embedding(20, 4), SelfAttention()

        def forward(self, notes: Tensor) -> tuple[Tensor]:
            return (self.attn(self.embed(notes).unsqueeze(1)),)

    (call,) = calls_of(Notes(), notes=torch.randint(0, 20, (2, 5)))
    assert call.key_segments == call.query_segments == {}
    assert call.tokens()[1] == tuple(Token(key, "unknown", key) for key in range(5))


def test_folded_rows() -> None:
    """Temporal attention folds places into rows, batch first."""

    class TemporalAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = TemporalAttention()

        def forward(self, hidden_states: Tensor) -> tuple[Tensor]:
            return (self.attn(hidden_states.reshape(6, 1, 4, 8)),)

    (call,) = calls_of(Model(), hidden_states=torch.randn(2, 3, 4, 8))
    assert [(row.row, row.unit) for row in call.rows] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]


def test_tokens_mixed_by_several_inputs_get_no_name() -> None:
    class SelfAttention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = SelfAttention()

        def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
            tokens = torch.cat(
                [hidden_states, hidden_states + encoder_hidden_states.mean(1, keepdim=True)], 1
            )
            return self.attn(tokens.unsqueeze(1))

    labels = probe_layout(
        Mixed(), (), {"hidden_states": torch.randn(1, 2, 4), "encoder_hidden_states": torch.randn(1, 3, 4)}
    )
    assert labels["attn#0.0"].keys == ("image", "image", None, None)


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((1, 4, 8, 8), 16, (3, 3)),
        ((1, 4, 8, 16), 32, (3, 7)),
        ((1, 4, 9, 9), 25, (4, 4)),
        ((1, 4, 16, 8), 128, (15, 7)),
        ((1, 4, 8, 8), 17, None),
        ((1, 4, 2, 8, 8), 32, None),
        ((1, 16, 8), 16, None),
    ],
)
def test_image_grid(shape: tuple[int, ...], count: int, expected: tuple[int, int] | None) -> None:
    grid = image_grid({"hidden_states": torch.zeros(shape)}, count)
    assert (grid[-1] if grid else None) == expected


def test_image_grid_from_position_ids() -> None:
    rows, columns = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    ids = torch.stack([torch.zeros(2, 3), rows, columns], -1).reshape(6, 3)
    assert image_grid({"img_ids": ids, "hidden_states": torch.zeros(1, 6, 4)}, 6) == [
        (row, column) for row in range(2) for column in range(3)
    ]


# ---- text


class Toy:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"▁t{i}</w>" for i in ids]


class Pipe:
    tokenizer = Toy()
    tokenizer_2 = Toy()


def captured(*ids: int, mask: list[bool] | None = None) -> Captured:
    return Captured(torch.tensor([ids]), None if mask is None else torch.tensor([mask]))


def roles(prompts: Prompts, length: int) -> list[str | None]:
    parts = text_parts(None, prompts, length, None)
    return [token.role for token in text_tokens(Pipe(), parts, prompts, length, branch="cond", unit=0)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (captured(1, 5, 6, 2, 2), ["bos", "content", "content", "eos", "pad"]),
        (captured(1, 5, 6, 2, 0), ["bos", "content", "content", "eos", "pad"]),
        (captured(0, 0, 1, 5, 2), ["pad", "pad", "bos", "content", "eos"]),
        (captured(5, 0, 6, 2, 0), ["content", "content", "content", "eos", "pad"]),
        (captured(5, 6, 0, 0, 0), ["content", "content", "pad", "pad", "pad"]),
        (
            captured(7, 7, 5, 2, 7, mask=[False, False, True, True, False]),
            ["pad", "pad", "content", "eos", "pad"],
        ),
        (captured(1, 2, 2, 2, 2), ["bos", "eos", "pad", "pad", "pad"]),
    ],
)
def test_roles(given: Captured, expected: list[str]) -> None:
    assert roles(Prompts(ids={"text_encoder": [given]}), 5) == expected


def test_unlisted_families_share_or_chain_encoders_by_length() -> None:
    both = Prompts(ids={"text_encoder": [captured(1, 5, 2)], "text_encoder_2": [captured(1, 6, 2)]})
    shared = text_parts(None, both, 3, None)
    assert [(part.encoders, part.start, part.stop) for part in shared] == [
        (("text_encoder", "text_encoder_2"), 0, 3)
    ]
    merged = text_tokens(Pipe(), shared, both, 3, branch="cond", unit=0)[1]
    assert (merged.text, merged.role, merged.encoder) == ("t5 / t6", "content", "text_encoder+text_encoder_2")
    chained = Prompts(ids={"text_encoder": [captured(1, 2)], "text_encoder_2": [captured(1, 6, 2)]})
    assert [(p.encoders, p.start, p.stop) for p in text_parts(None, chained, 5, None)] == [
        (("text_encoder",), 0, 2),
        (("text_encoder_2",), 2, 5),
    ]
    assert text_parts(None, chained, 9, None) == (), "nothing is guessed when the lengths do not add up"


def test_sd3_without_t5_keeps_its_zero_rows() -> None:
    pipe = tiny.tiny_sd3()
    pipe.text_encoder_3 = pipe.tokenizer_3 = None
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, run: Any) -> Tensor:
        calls.append(call)
        return run(call)

    with Session(pipe, handler):
        tiny.run(pipe, output_type="latent")
    call = calls[0]
    # Older versions of diffusers write as many zero rows as CLIP has tokens.
    rows = {int(call.key_segments[name].sum()) for name in ("clip", "t5")}
    assert tiny.TEXT in rows and rows <= {tiny.TEXT, tiny.T5_TEXT}
    behind = [token for token in call.tokens()[1] if token.segment == "text"][tiny.TEXT :]
    assert {(token.text, token.role, token.encoder) for token in behind} == {(None, None, None)}


def test_a_call_without_a_session_has_unknown_tokens() -> None:
    tensor = torch.zeros(2, 1, 3, 4)
    call = AttentionCall(Site("x", 0, "self", 1, ()), tensor, tensor, tensor)
    assert call.tokens() == ((Token(0, "unknown", 0), Token(1, "unknown", 1), Token(2, "unknown", 2)),) * 2
