"""Vision and vision-language models as bare modules: CLS, registers, patches; pictures among words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.zoo.language import ids
from tests.zoo.vision import (
    IMAGE_TOKEN,
    PATCH,
    REGISTERS,
    SIZE,
    clip_vision,
    dinov2_registers,
    dinov3,
    llava,
    look,
    look_and_read,
    picture_prompt,
    pictures,
    siglip_vision,
    vit,
)
from torch import Tensor, nn

from sinkscope.attention import Keys, Mask, Segment, TopMass
from sinkscope.models import AttentionCall, Edit, Session, intervene, observe, probe_layout, sites
from sinkscope.models._map import attention_map

GRID = SIZE // PATCH


def first_call(model: nn.Module, run: Callable[[], Any]) -> AttentionCall:
    calls: list[AttentionCall] = []

    def handler(call: AttentionCall, issue: Any) -> Tensor:
        calls.append(call)
        return issue(call)

    with Session(model, handler), torch.no_grad():
        run()
    return calls[0]


@pytest.mark.parametrize(
    ("build", "parameter", "segment"),
    [
        (vit, "cls_token", "cls"),
        (clip_vision, "class_embedding", "cls"),
        (dinov2_registers, "cls_token", "cls"),
        (dinov2_registers, "register_tokens", "register"),
        (dinov3, "cls_token", "cls"),
        (dinov3, "register_tokens", "register"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_learned_token_is_where_its_parameter_acts(
    build: Callable[[], Any], parameter: str, segment: str
) -> None:
    """The probe calls them all registers; changing one parameter tells them apart."""
    model, other = build(), build()
    # Releases of transformers keep it in modules of different names.
    learned = next(part for name, part in other.named_parameters() if name.endswith(f".{parameter}"))
    learned.data.add_(torch.linspace(0, 1, 16))
    one, changed = (first_call(part, lambda part=part: part(pictures())) for part in (model, other))
    moved = (one.k - changed.k).abs().amax((0, 1, 3)) > 1e-6
    assert torch.equal(moved, one.key_segments[segment])


def test_observing_a_vision_transformer() -> None:
    model = dinov2_registers()
    with observe(model) as seen:
        look(model)
    summary = seen.summary()
    masses = summary[["mass_cls", "mass_register", "mass_image"]]
    assert set(summary.queries) == {"image"}, "whose attention counts is the patches'"
    assert masses.sum(axis=1).round(5).eq(1.0).all()
    found = seen.sinks(keys_per_head=1 + REGISTERS + GRID**2)
    here = found[(found.layer == 0) & (found["head"] == 0) & (found.unit == 1)].sort_values("key")
    assert here.segment.tolist() == ["cls"] + ["register"] * REGISTERS + ["image"] * GRID**2
    assert here.position.tolist() == [0, *range(REGISTERS), *range(GRID**2)]
    patches = here[here.segment == "image"]
    assert list(zip(patches.image_row, patches.image_column, strict=True)) == [
        divmod(patch, GRID) for patch in range(GRID**2)
    ]


def test_pictures_that_are_not_square_have_their_rows_and_columns() -> None:
    model = dinov3()
    call = first_call(model, lambda: model(pictures(1, SIZE, 2 * SIZE)))
    places = [(token.row, token.column) for token in call.tokens()[0] if token.segment == "image"]
    assert places == [(row, column) for row in range(GRID) for column in range(2 * GRID)]


def test_removing_registers_and_its_controls() -> None:
    model = dinov2_registers()
    plain = look(model)
    edit = Edit(Segment("register"), Mask())
    with intervene(model, edit, units=["a", "b"]) as receipt:
        edited = look(model)
    table = receipt.table()
    assert set(table.keys_register) == {REGISTERS} and (table.mass_after == 0).all()
    assert not torch.allclose(plain, edited, atol=1e-3)
    with intervene(model, edit.control("count", seed=0), units=["a", "b"]) as random:
        other = look(model)
    assert set(random.table()["keys"]) == {REGISTERS} and not torch.allclose(edited, other, atol=1e-3)
    assert (random.table().treated_mass > 0).all()
    with intervene(model, edit.control("null")):
        assert torch.allclose(look(model), plain, atol=1e-5)
    # The oracle: registers that reach nobody are registers that are not there.
    layers = model.encoder.layer
    with torch.no_grad():
        hidden = model.embeddings(pictures())
        kept = torch.cat([hidden[:, :1], hidden[:, 1 + REGISTERS :]], 1)
        for layer in layers:
            kept = layer(kept)
        want = model.layernorm(kept)
    assert torch.allclose(edited[:, 1 + REGISTERS : -1], want[:, 1:], atol=1e-5)


def test_a_pooling_head_is_a_site_of_its_own() -> None:
    model = siglip_vision()
    head = sites(model)[-1]
    assert (head.layer, head.kind, head.heads) == (None, "cross", 2) and head.name.endswith("head.attention")
    assert [site.layer for site in sites(model)] == [0, 1, None]
    with observe(model, sites="*head.*") as seen:
        pooled = look(model)
    mass = seen.mass(site=head.name)
    assert mass.shape == (1, 2, 2, GRID**2)
    with intervene(model, Edit(TopMass(keys_per_head=4), Mask(), sites="*head.*")) as receipt:
        edited = look(model)
    assert torch.allclose(pooled[:, :-1], edited[:, :-1], atol=1e-6), "only the pooled vector is touched"
    assert not torch.allclose(pooled[:, -1], edited[:, -1], atol=1e-4)
    assert (receipt.table().mass_after == 0).all() and set(receipt.table().keys_image) == {4}


def test_the_map_of_a_model_without_weights_names_its_tokens() -> None:
    for build in (dinov2_registers, llava, siglip_vision):
        model = build()
        (part,) = attention_map(model).parts
        if part.calls is None:
            # Older releases of transformers look at values that are not there.
            assert build is llava and part.why
            continue
        found = {call.site.name: dict(call.key_segments) for call in part.calls}
        assert list(found) == [site.name for site in sites(model)]
        for name, site in ((site.name, site) for site in sites(model)):
            if site.kind == "causal":
                assert list(found[name]) == ["text"]
            elif build is dinov2_registers:
                assert found[name] == {"cls": 1, "register": REGISTERS, "image": GRID**2}
            else:
                assert found[name]["image"] == GRID**2


# ---- pictures among words


def test_layers_of_a_vision_language_model_are_those_of_its_language_part() -> None:
    model = llava()
    listed = sites(model)
    assert [(site.layer, site.kind) for site in listed] == [
        (None, "self"),
        (None, "self"),
        (0, "causal"),
        (1, "causal"),
    ]
    assert listed[0].segments == ("cls", "image") and listed[2].segments == ("text",)
    with observe(model) as seen:
        look_and_read(model)
    assert set(seen.summary().layer) == {0, 1}
    with observe(model, sites="*vision_tower*") as seen:
        look_and_read(model)
    assert {"mass_cls", "mass_image"} <= set(seen.summary()) and set(seen.summary().queries) == {"image"}


def test_a_picture_among_words_has_a_segment_and_a_grid() -> None:
    model = llava()
    prompts = picture_prompt()
    prompts[1] = prompts[1].roll(1)
    with torch.no_grad(), observe(model, layers=1, keep=("mass", "roles")) as seen:
        model(input_ids=prompts, pixel_values=pictures())
    assert set(seen.summary().queries) == {"all"}, "a language model's default is every token"
    found = seen.sinks(keys_per_head=prompts.shape[1])
    for unit, start in enumerate((3, 4)):
        row = found[(found.unit == unit) & (found["head"] == 0)].sort_values("key")
        picture = row[row.segment == "image"]
        assert picture.key.tolist() == list(range(start, start + GRID**2))
        assert picture.image_column.tolist() == [patch % GRID for patch in range(GRID**2)]
        assert picture.role.isna().all() and picture.position.tolist() == list(range(GRID**2))
        text = row[row.segment == "text"]
        assert text.position.tolist() == list(range(6)) and text.role.notna().all()
    assert {"mass_image", "mass_text"} <= set(seen.summary())
    with torch.no_grad(), observe(model, layers=1, queries="text") as words:
        model(input_ids=prompts, pixel_values=pictures())
    assert not torch.allclose(words.mass(), seen.mass(), atol=1e-3)


def test_a_picture_can_be_taken_out_of_a_generation() -> None:
    model = llava()
    given = {"input_ids": picture_prompt(), "pixel_values": pictures(), "do_sample": False}
    given |= {"max_new_tokens": 3, "min_new_tokens": 3}
    plain = model.generate(**given)
    edit = Edit(Segment("image"), Mask())
    with intervene(model, edit) as receipt, observe(model, layers=1, queries="text") as seen:
        model.generate(**given)
    assert set(receipt.table().step) == {0, 1, 2} and set(receipt.table().keys_image) == {GRID**2}
    assert (receipt.table().mass_before > 0).all() and (receipt.table().mass_after == 0).all()
    with intervene(model, edit):
        one = model.generate(**given)
        other = model.generate(**{**given, "pixel_values": pictures().flip(0)})
    assert torch.equal(one, other), "without its patches no picture reaches a word"
    assert torch.equal(plain, model.generate(**given)) and seen.mass().shape == (3, 2, 4, 24)
    assert IMAGE_TOKEN not in ids()


# ---- timm


class Attention(nn.Module):
    """As in timm: one projection, `F.scaled_dot_product_attention`."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.fused_attn = 2, True
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(rows, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, tokens, width))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x)


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_size = (PATCH, PATCH)
        self.proj = nn.Conv2d(3, 16, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Names and order of tokens as in timm 1.0 (CLS, registers, patches)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.reg_token = nn.Parameter(torch.randn(1, REGISTERS, 16))
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        learned = [part.expand(len(x), -1, -1) for part in (self.cls_token, self.reg_token)]
        return self.blocks(torch.cat([*learned, self.patch_embed(x)], dim=1))


def _timm() -> nn.Module:
    # timm imports torchvision, which must not stand beside a CPU build of torch here.
    models = pytest.importorskip("timm.models.vision_transformer", reason="timm needs torchvision")
    return models.VisionTransformer(
        img_size=SIZE, patch_size=PATCH, embed_dim=16, depth=2, num_heads=2, reg_tokens=REGISTERS
    )


@pytest.mark.parametrize("build", [VisionTransformer, _timm], ids=["built alike", "timm"])
def test_a_vision_transformer_of_timm(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    assert [(site.name, site.layer, site.kind, site.heads, site.segments) for site in sites(model)] == [
        (f"blocks.{layer}.attn", layer, "self", 2, ("cls", "register", "image")) for layer in (0, 1)
    ]
    with torch.no_grad():
        plain = model(pictures())
        with observe(model) as seen:
            assert torch.equal(model(pictures()), plain)
        with intervene(model, Edit(Keys((0,)), Mask(), layers=[0])):
            assert not torch.allclose(model(pictures()), plain, atol=1e-4)
    assert seen.mass(layer=1).shape == (1, 2, 2, 1 + REGISTERS + GRID**2)
    labels = probe_layout(model, (pictures(),))["blocks.0.attn#0.0"].keys
    assert labels == ("register",) * (1 + REGISTERS) + ("image",) * GRID**2
    found = seen.sinks(keys_per_head=1 + REGISTERS + GRID**2)
    row = found[(found.layer == 0) & (found["head"] == 0) & (found.unit == 0)].sort_values("key")
    assert row.segment.tolist() == ["cls"] + ["register"] * REGISTERS + ["image"] * GRID**2
    assert row.image_column.dropna().tolist() == [patch % GRID for patch in range(GRID**2)]
