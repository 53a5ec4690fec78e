"""The LPIPS 0.1 network (Zhang et al. 2018): AlexNet or VGG-16 features, compared layer by layer.

For unit-normalised features `x_l`, `y_l` of two images: `sum over l of mean over pixels of w_l . (x_l -
y_l)^2`. Written as plain functions over the released state dicts, which keep their names
(`features.N.weight`, `linN.model.1.weight`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Net = Literal["alex", "vgg"]

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class _Stage(NamedTuple):
    pool: bool
    convs: tuple[int, ...]
    """Indices in torchvision's `features`; the stage's output is taken after the last one's ReLU."""


class Layout(NamedTuple):
    """Shape of a backbone."""

    stages: tuple[_Stage, ...]
    kernel: int
    """Of the pooling, stride 2."""
    strides: Mapping[int, tuple[int, int]]
    """Convolution index -> (stride, padding); (1, 1) where not named."""
    channels: tuple[int, ...]
    """Of each stage's output."""
    least: int
    """Smallest image side in pixels that leaves a feature on the last stage."""


LAYOUTS: dict[Net, Layout] = {
    "alex": Layout(
        stages=(
            _Stage(False, (0,)),
            _Stage(True, (3,)),
            _Stage(True, (6,)),
            _Stage(False, (8,)),
            _Stage(False, (10,)),
        ),
        kernel=3,
        strides={0: (4, 2), 3: (1, 2)},
        channels=(64, 192, 384, 256, 256),
        least=31,
    ),
    "vgg": Layout(
        stages=(
            _Stage(False, (0, 2)),
            _Stage(True, (5, 7)),
            _Stage(True, (10, 12, 14)),
            _Stage(True, (17, 19, 21)),
            _Stage(True, (24, 26, 28)),
        ),
        kernel=2,
        strides={},
        channels=(64, 128, 256, 512, 512),
        least=16,
    ),
}


class Released(NamedTuple):
    """One file of the released weights."""

    name: str
    size: str
    sha: str
    """Start of its SHA-256."""
    url: str


_LIN = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
_HUB = "https://download.pytorch.org/models"
RELEASED: dict[Net, tuple[Released, Released]] = {
    "alex": (
        Released("alexnet-owt-7be5be79.pth", "244 MB", "7be5be79", f"{_HUB}/alexnet-owt-7be5be79.pth"),
        Released("alex.pth", "6 KB", "df73285e35b22355", f"{_LIN}/alex.pth"),
    ),
    "vgg": (
        Released("vgg16-397923af.pth", "553 MB", "397923af", f"{_HUB}/vgg16-397923af.pth"),
        Released("vgg.pth", "7 KB", "a78928a0af1e5f0f", f"{_LIN}/vgg.pth"),
    ),
}
"""Backbone and linear weights."""


def expected_keys(net: Net) -> tuple[list[str], list[str]]:
    """Return the state-dict names that the backbone and the linear file must hold."""
    convs = [index for stage in LAYOUTS[net].stages for index in stage.convs]
    backbone = [f"features.{index}.{part}" for index in convs for part in ("weight", "bias")]
    return backbone, [f"lin{stage}.model.1.weight" for stage in range(len(LAYOUTS[net].stages))]


def distance(a: Tensor, b: Tensor, net: Net, weights: Mapping[str, Tensor]) -> Tensor:
    """LPIPS distance.

    Args:
        a: Images `[row, 3, height, width]` in [-1, 1]; no resizing is done.
        b: Images to compare with, the same shape.
        net: Backbone.
        weights: Names of `expected_keys` -> tensor.

    Returns:
        `[row]`, exactly 0 for identical images.
    """
    total = torch.zeros(a.shape[0], device=a.device)
    for index, (x, y) in enumerate(zip(_features(a, net, weights), _features(b, net, weights), strict=True)):
        squared = (_unit(x) - _unit(y)) ** 2
        total = total + F.conv2d(squared, weights[f"lin{index}.model.1.weight"]).mean(dim=(1, 2, 3))
    return total


def _features(images: Tensor, net: Net, weights: Mapping[str, Tensor]) -> list[Tensor]:
    layout = LAYOUTS[net]
    shift = torch.tensor(SHIFT, device=images.device).view(1, 3, 1, 1)
    x = (images - shift) / torch.tensor(SCALE, device=images.device).view(1, 3, 1, 1)
    out = []
    for stage in layout.stages:
        x = F.max_pool2d(x, layout.kernel, stride=2) if stage.pool else x
        for index in stage.convs:
            stride, padding = layout.strides.get(index, (1, 1))
            kernel, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
            x = F.relu(F.conv2d(x, kernel, bias, stride=stride, padding=padding))
        out.append(x)
    return out


def _unit(x: Tensor) -> Tensor:
    # The small number is added outside the root, as in the released code.
    return x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + 1e-10)
