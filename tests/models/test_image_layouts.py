"""Layouts of image models in situations that their specimens do not show."""

from __future__ import annotations

from itertools import groupby

import diffusers
import pytest
import torch
from tests.models.test_layout import calls_of, keys, queries
from tests.zoo import SPECIMENS
from tests.zoo.records import built, having, record_anew, short

from sinkscope.models import observe


@having("Flux2Transformer2DModel")
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


@having("HunyuanImageTransformer2DModel")
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


ORDINARY = "sd3 flux sdxl chroma qwen-image z-image auraflow cogview4 kandinsky22 pixart-alpha"
WIDE = {name: {"height": 16, "width": 32} for name in ORDINARY.split()}
WIDE |= {"flux2": {"height": 8, "width": 16}, "lumina2": {"height": 64, "width": 128}}
WIDE |= {"hidream": {"height": 8, "width": 24}}


@pytest.mark.parametrize("name", [name for name in WIDE if name in SPECIMENS])
def test_wide_images(name: str) -> None:
    """Rows and columns are not mixed up, and what fills up an image that is not square is padding."""
    specimen = SPECIMENS[name]
    calls = record_anew(specimen, **WIDE[name], **short(specimen))
    shape = 3 if name == "hidream" else 2
    seen = 0
    for call in calls:
        places = [(t.row, t.column) for t in call.tokens()[0] if t.segment == "image"]
        if places:
            rows = 1 + max(row for row, _ in places if row is not None)
            assert places == [(row, column) for row in range(rows) for column in range(shape * rows)]
            seen += 1
    assert seen
    if name == "hidream":
        filled = [sum(t.segment == "padding" for t in row) for call in calls for row in call.tokens()]
        assert set(filled) == {16 - 12}


@having("ZImagePipeline")
def test_rows_of_different_lengths_are_masked_and_named() -> None:
    """Z-Image fills texts up to 32 tokens, and the shorter of two rows up to the longer one."""
    specimen = SPECIMENS["z-image"]
    prompts = ["a cat", "an owl in a tree with a cat"]
    calls = record_anew(specimen, prompt=prompts, **short(specimen))
    joint = next(call for call in calls if call.site.layer == 0)
    assert joint.mask is not None
    names = [[token.segment for token in row] for row in joint.tokens()]
    counts = [[(name, len(list(some))) for name, some in groupby(row)] for row in names]
    image = [("image", 16), ("padding", 16)]
    assert counts[0] == [*image, ("text", 23), ("padding", 9 + 32)]
    assert counts[1] == [*image, ("text", 45), ("padding", 19)]
    for row, kept in zip(joint.tokens(), joint.mask[:, 0, 0], strict=True):
        assert all(kept[token.key] for token in row if token.segment != "padding")
    with observe(built(specimen), layers=[0], queries="image") as seen:
        specimen.run(built(specimen), prompt=prompts, **short(specimen))
    mass = seen.mass(layer=0)
    assert torch.allclose(mass.sum(-1), torch.ones(()), atol=1e-5)
    assert not mass[0, 0, :, 64:].any(), "nobody attends to what fills up the shorter row"
