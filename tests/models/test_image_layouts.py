"""Layouts of image models in situations that their specimens do not show."""

from __future__ import annotations

import diffusers
import torch
from tests.models.test_layout import calls_of, keys, queries


def test_images_to_look_at_follow_the_painted_one() -> None:
    """As in the editing pipelines of Qwen-Image and FLUX.2."""
    text, packed = torch.randn(2, 5, 16), torch.randn(2, 4 + 6, 16)
    qwen = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    shapes = [[(1, 2, 2), (1, 2, 3)]] * 2
    given = {
        "hidden_states": packed,
        "encoder_hidden_states": text,
        "timestep": torch.ones(2),
    }
    (call,) = calls_of(qwen, **given, img_shapes=shapes)
    assert keys(call) == queries(call) == [("text", 5), ("image", 4), ("reference", 6)]
    flux2 = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=8,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    painted = torch.cartesian_prod(*map(torch.arange, (1, 2, 2, 1)))
    seen = torch.cartesian_prod(*map(torch.arange, (1, 2, 3, 1))) + torch.tensor([10, 0, 0, 0])
    ids = torch.cat([painted, seen]).expand(2, -1, -1)
    for call in calls_of(flux2, **given, img_ids=ids, txt_ids=torch.zeros(2, 5, 4)):
        assert keys(call) == queries(call) == [("text", 5), ("image", 4), ("reference", 6)]
        places = [(t.row, t.column) for t in call.tokens()[1] if t.segment == "image"]
        assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_two_texts_whose_padding_stands_behind_both() -> None:
    """HunyuanImage with glyphs: the tokens of both encoders that are no padding, then the padding of both."""
    model = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        text_embed_dim=16,
        text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
    )
    calls = calls_of(
        model,
        hidden_states=torch.randn(2, 4, 4, 4),
        timestep=torch.ones(2),
        encoder_hidden_states=torch.randn(2, 5, 16),
        encoder_attention_mask=torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        encoder_hidden_states_2=torch.randn(2, 3, 16),
        encoder_attention_mask_2=torch.tensor([[1, 1, 0], [1, 0, 0]]),
    )
    joint = [call for call in calls if call.site.layer == 0]
    for row, places in enumerate(([0, 1, 2, 5, 6, 3, 4, 7], [0, 1, 2, 3, 4, 5, 6, 7])):
        text = [token for token in joint[0].tokens()[row] if token.segment == "text"]
        assert [token.position for token in text] == places
        assert [token.key for token in text] == list(range(16, 24))
