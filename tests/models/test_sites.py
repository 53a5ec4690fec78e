"""Listing and picking sites."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import tiny
from torch import nn

from sinkscope.errors import NoMatchError, UsageError
from sinkscope.models import Site, resolve_sites, sites


@pytest.fixture(scope="module")
def sd35() -> Any:
    return tiny.tiny_sd35()


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny.tiny_sdxl()


def names(found: list[Site]) -> list[str]:
    return [site.name for site in found]


def test_sites_of_dual_attention(sd35: Any) -> None:
    found = sites(sd35)
    assert [(site.layer, site.kind) for site in found] == [
        (0, "joint"),
        (0, "self"),
        (1, "joint"),
        (1, "self"),
        (2, "joint"),
    ]
    assert found[0] == Site("transformer_blocks.0.attn", 0, "joint", 2, ("image", "text"))
    assert found[0].key == "transformer_blocks.0.attn#0.0"
    assert sites(sd35.transformer) == found


def test_flux_numbers_single_blocks_after_double_ones() -> None:
    found = sites(tiny.tiny_flux())
    assert [(site.name.split(".")[0], site.layer) for site in found] == [
        ("transformer_blocks", 0),
        ("transformer_blocks", 1),
        ("single_transformer_blocks", 2),
        ("single_transformer_blocks", 3),
    ]
    assert {site.segments for site in found} == {("text", "image")}


def test_unets_are_numbered_down_middle_up(sdxl: Any) -> None:
    tops = [site.name.split(".")[0] for site in sites(sdxl)]
    assert tops == sorted(tops, key=["down_blocks", "mid_block", "up_blocks"].index)
    assert sites(sdxl)[-1].layer == len(sites(sdxl)) // 2 - 1


def test_two_denoisers_have_prefixes(sd35: Any) -> None:
    class Experts:
        components = {  # noqa: RUF012
            "transformer": sd35.transformer,
            "transformer_2": tiny.tiny_sd3().transformer,
        }

    found = sites(Experts())
    assert found[0].name == "transformer.transformer_blocks.0.attn"
    assert found[-1].name == "transformer_2.transformer_blocks.2.attn"
    assert len(resolve_sites(Experts(), layers=[1])) == 2


def test_compile_marks_are_stripped() -> None:
    model = tiny.tiny_sd3().transformer
    expected = sites(model)
    model.transformer_blocks[0] = torch.compile(model.transformer_blocks[0], backend="eager")
    assert sites(torch.compile(model, backend="eager")) == expected


def test_the_joint_site_of_a_block_is_meant(sd35: Any) -> None:
    assert names(resolve_sites(sd35, layers=[0, 2])) == [
        "transformer_blocks.0.attn",
        "transformer_blocks.2.attn",
    ]
    assert len(resolve_sites(sd35)) == 3
    assert names(resolve_sites(sd35, layers=0, kind="self")) == ["transformer_blocks.0.attn2"]
    assert len(resolve_sites(sd35, layers=[0], kind="all")) == 2
    assert len(resolve_sites(sd35, sites="*.attn2")) == 2
    assert len(resolve_sites(sd35, layers=[1], sites=["*.attn", "*.attn2"])) == 2


def test_a_block_without_a_joint_site_must_be_told(sdxl: Any) -> None:
    with pytest.raises(
        UsageError, match=r"attn1 \(self\).*attn2 \(cross\).*kind='cross'\|'self'\|'all' or sites='\*.attn2'"
    ):
        resolve_sites(sdxl, layers=[0])
    assert {site.kind for site in resolve_sites(sdxl, kind="cross")} == {"cross"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layers": [3]}, r"Unknown layer 3: the model has 3 layers \(0 to 2\). Use layers=range\(3\)"),
        ({"layers": [-1]}, "Unknown layer -1"),
        ({"layers": range(2, 9)}, "Unknown layer 3, 4, 5, 6, 7, 8"),
        ({"kind": "crosss"}, "Did you mean 'cross'"),
        (
            {"kind": "cross"},
            "No attention site matches .*kind='cross'.* The model has: transformer_blocks.0.attn",
        ),
        ({"sites": "*.nothing"}, "No attention site matches"),
        ({"layers": [2], "kind": "self"}, "No attention site matches"),
        ({"layers": []}, "No attention site matches"),
    ],
)
def test_unknown_choices_list_what_exists(sd35: Any, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_sites(sd35, **choice)


def test_unlisted_models_are_guessed() -> None:
    class CrossAttention(nn.Module):
        def __init__(self, cross: bool) -> None:
            super().__init__()
            self.is_cross_attention, self.num_heads = cross, 4

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = CrossAttention(False), CrossAttention(True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.refiner = nn.ModuleList([Block()])
            self.layers = nn.ModuleList([Block(), Block()])

    found = sites(Model())
    assert [(site.name, site.layer, site.kind, site.heads) for site in found] == [
        ("refiner.0.one", None, "self", 4),
        ("refiner.0.two", None, "cross", 4),
        ("layers.0.one", 0, "self", 4),
        ("layers.0.two", 0, "cross", 4),
        ("layers.1.one", 1, "self", 4),
        ("layers.1.two", 1, "cross", 4),
    ]


def test_models_without_attention() -> None:
    assert sites(nn.Linear(2, 2)) == []
    with pytest.raises(NoMatchError, match="Linear has no attention module"):
        resolve_sites(nn.Linear(2, 2))
