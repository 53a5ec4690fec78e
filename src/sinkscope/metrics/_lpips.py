"""LPIPS: learned perceptual distance to a reference image, from converted weights on this machine.

Images are compared at their own size; LPIPS depends on it, so only distances at one size compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import UsageError, unknown

from ._batches import Batches, exact
from ._files import sha256, versions
from ._image import ImageError, pixels
from ._lpips_net import LAYOUTS, RELEASED, Net, distance, expected_keys
from ._protocol import Direction, MetricInfo, Prompt, check_inputs
from ._weights import AbsentWeightsError, looked, once, provenance, weights_folder


class Lpips:
    """LPIPS 0.1 distance to the reference; 0 for identical images.

    Args:
        net: "alex" (the paper's choice for comparing images) or "vgg".
        checkpoint: Folder that `sinkscope convert lpips-alex` or `lpips-vgg` wrote; None: the folder of that
            name in the weights folder.
        batch: Pairs per forward pass; halved when memory runs out.
        device: Where to run; the dtype is float32 everywhere.
    """

    name = "lpips"
    direction: Direction = "lower"
    needs = frozenset({"reference"})

    def __init__(
        self,
        net: Net = "alex",
        *,
        checkpoint: str | Path | None = None,
        batch: int = 8,
        device: str = "cpu",
    ) -> None:
        if net not in get_args(Net):
            raise unknown("LPIPS network", net, get_args(Net))
        self._batches = Batches(self.name, batch, device)
        self.net, self.device = net, device
        self.checkpoint = weights_folder() / f"lpips-{net}" if checkpoint is None else Path(checkpoint)

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs the converted weights of the default network."""
        return looked(cls.name, cls()._file)

    def identity(self) -> dict[str, Any]:
        """What decides the numbers; `released_weights` says whether they were made from the released
        files."""
        made = provenance(self._file().parent)
        return {
            "metric": self.name,
            "backend": f"sinkscope (torch), LPIPS 0.1 {self.net}",
            "checkpoint": self.checkpoint.name,
            "sha256": sha256([self._file()]),
            "source": made.get("source"),
            "released_weights": bool(made.get("released")),
            "dtype": "float32",
            "preprocess": "rgb-uint8 / 127.5 - 1, no resize",
            "versions": versions("torch", "pillow"),
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """Distance of each image to its reference, float64 `[n]`."""
        check_inputs(self, images, prompts, reference)
        least = LAYOUTS[self.net].least
        for image in images:
            if min(image.size) < least:
                raise ImageError(
                    f"Image is {image.width}x{image.height} pixels, "
                    f"expected {least} or more on each side for {self.net}."
                )
        pairs = list(zip(images, reference or (), strict=True))
        weights, out = self._load(), np.empty(len(images))
        with exact(self.device):
            for group in _by_size(images):
                found = self._batches([pairs[index] for index in group], partial(self._distances, weights))
                out[group] = found.double().cpu().numpy()
        return out

    def _distances(
        self, weights: dict[str, Tensor], pairs: Sequence[tuple[Image.Image, Image.Image]]
    ) -> Tensor:
        a = torch.stack([_tensor(image) for image, _ in pairs]).to(self.device)
        b = torch.stack([_tensor(other) for _, other in pairs]).to(self.device)
        return distance(a, b, self.net, weights)

    def _load(self) -> dict[str, Tensor]:
        loaded: dict[str, Tensor] = once("lpips", [self._file()], (self.net, self.device), self._read)
        return loaded

    def _read(self) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._file()
        try:
            state = load_file(path, device=self.device)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{path} cannot be read ({error}). {self._how()}") from error
        keys = [key for part in expected_keys(self.net) for key in part]
        if absent := [key for key in keys if key not in state]:
            raise UsageError(
                f"{path} lacks {absent[0]!r} and {len(absent) - 1} more of {len(keys)} tensors; "
                f"expected LPIPS weights for {self.net!r}. Name the right folder."
            )
        return {key: state[key].float() for key in keys}

    def _file(self) -> Path:
        path = self.checkpoint / "model.safetensors"
        if not path.is_file():
            listed = " and ".join(f"{file.name} ({file.size})" for file in RELEASED[self.net])
            raise AbsentWeightsError(f"LPIPS ({self.net}) lacks {path}, made from {listed}.", self._how())
        return path

    def _how(self) -> str:
        files = RELEASED[self.net]
        fetch = " && ".join(f"curl -fLO {file.url}" for file in files)
        names = " ".join(file.name for file in files)
        return f"Fetch and convert them: {fetch} && sinkscope convert lpips-{self.net} {names}"


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(pixels(image).copy()).permute(2, 0, 1).to(torch.float32) / 127.5 - 1


def _by_size(images: Sequence[Image.Image]) -> list[list[int]]:
    """Indices in groups of equal image size."""
    sizes: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        sizes.setdefault(image.size, []).append(index)
    return list(sizes.values())
