"""LPIPS: learned perceptual distance to a reference image, from weights already on this machine.

Images are compared at their own size; LPIPS depends on it, so only distances at one size compare.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sinkscope.errors import MissingWeightsError, UsageError, unknown

from ._files import sha256, versions
from ._image import ImageError, pixels
from ._lpips_net import LAYOUTS, Net, distance, expected_keys
from ._protocol import Direction, MetricInfo, Prompt, check_inputs

ENVIRONMENT = "SINKSCOPE_WEIGHTS"
"""Names a folder that is searched for weights."""


class _File(NamedTuple):
    name: str
    size: str
    sha: str
    """Start of the released file's SHA-256."""
    url: str


_LIN = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
_HUB = "https://download.pytorch.org/models"
BACKBONES: dict[Net, _File] = {
    "alex": _File("alexnet-owt-7be5be79.pth", "244 MB", "7be5be79", f"{_HUB}/alexnet-owt-7be5be79.pth"),
    "vgg": _File("vgg16-397923af.pth", "553 MB", "397923af", f"{_HUB}/vgg16-397923af.pth"),
}
LINEAR: dict[Net, _File] = {
    "alex": _File("alex.pth", "6 KB", "df73285e35b22355", f"{_LIN}/alex.pth"),
    "vgg": _File("vgg.pth", "7 KB", "a78928a0af1e5f0f", f"{_LIN}/vgg.pth"),
}


class Lpips:
    """LPIPS 0.1 distance to the reference; 0 for identical images.

    Args:
        net: "alex" (the paper's choice for comparing images) or "vgg".
        folder: Searched first for the weight files, by their released names.
        backbone: A backbone file of your own, instead of the released one.
        linear: A file of linear weights of your own.
        batch: Pairs per forward pass.
        device: Where to run; the dtype is float32 everywhere.
    """

    name = "lpips"
    direction: Direction = "lower"
    needs = frozenset({"reference"})

    def __init__(
        self,
        net: Net = "alex",
        *,
        folder: str | Path | None = None,
        backbone: str | Path | None = None,
        linear: str | Path | None = None,
        batch: int = 8,
        device: str = "cpu",
    ) -> None:
        if net not in get_args(Net):
            raise unknown("LPIPS network", net, get_args(Net))
        if batch < 1:
            raise UsageError(f"Got batch={batch}, expected at least 1.")
        self.net, self.batch, self.device = net, batch, device
        self.folder = None if folder is None else Path(folder)
        self._given = (backbone, linear)
        self._weights: dict[str, Tensor] | None = None

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs two released files for the default network."""
        try:
            cls()._files()
        except MissingWeightsError as error:
            reason, _, how = str(error).partition(" Fetch ")
            return MetricInfo(cls.name, "missing", reason=reason, how=f"Fetch {how}")
        return MetricInfo(cls.name, "ready")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        files = self._files()
        hashes = [sha256([path]) for path in files]
        released = [
            _released(table[self.net], value)
            for table, value in zip((BACKBONES, LINEAR), hashes, strict=True)
        ]
        return {
            "metric": self.name,
            "backend": f"sinkscope (torch), LPIPS 0.1 {self.net}",
            "checkpoint": [path.name for path in files],
            "sha256": hashes,
            "released_weights": all(released),
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
        weights, out = self._load(), np.empty(len(images))
        for group in _by_size(images, self.batch):
            a = torch.stack([_tensor(images[index]) for index in group]).to(self.device)
            b = torch.stack([_tensor((reference or images)[index]) for index in group]).to(self.device)
            with torch.inference_mode():
                out[group] = distance(a, b, self.net, weights).double().cpu().numpy()
        return out

    def _load(self) -> dict[str, Tensor]:
        if self._weights is None:
            loaded: dict[str, Tensor] = {}
            for path, keys in zip(self._files(), expected_keys(self.net), strict=True):
                state = torch.load(path, map_location=self.device, weights_only=True)
                if absent := [key for key in keys if key not in state]:
                    raise MissingWeightsError(
                        f"{path.name} lacks {absent[0]!r} and {len(absent) - 1} more of {len(keys)} tensors; "
                        f"expected LPIPS weights for {self.net!r}. Name the right file."
                    )
                loaded |= {key: state[key].float() for key in keys}
            self._weights = loaded
        return self._weights

    def _files(self) -> list[Path]:
        """The backbone file and the linear file."""
        found: list[Path] = []
        missing: list[_File] = []
        for given, table in zip(self._given, (BACKBONES, LINEAR), strict=True):
            path = Path(given) if given is not None else self._search(table[self.net])
            if path is not None and path.is_file():
                found.append(path)
            elif given is not None:
                raise MissingWeightsError(
                    f"No file {given}, expected LPIPS weights for {self.net!r}. Name one that exists."
                )
            else:
                missing.append(table[self.net])
        if missing:
            listed = " and ".join(f"{file.name} ({file.size})" for file in missing)
            commands = " && ".join(f"curl -fLO {file.url}" for file in missing)
            raise MissingWeightsError(
                f"LPIPS ({self.net}) lacks {listed}. Fetch into a folder and set {ENVIRONMENT} "
                f"to it: {commands}"
            )
        return found

    def _search(self, file: _File) -> Path | None:
        for folder in [*([self.folder] if self.folder else []), *_places()]:
            path = folder / file.name
            if path.is_file():
                if not _released(file, value := sha256([path])):
                    raise MissingWeightsError(
                        f"{path} is not the released file: sha256 {value[:16]}, expected {file.sha}... "
                        f"Fetch it again: "
                        f"curl -fLO {file.url} (or pass it as backbone= or linear= if it is your own)."
                    )
                return path
        return None


def _released(file: _File, value: str) -> bool:
    return value.startswith(file.sha)


def _places() -> list[Path]:
    """Folders where the files may already be: the user's, torch's cache, and packages that carry the linear
    weights.
    """
    places = [Path(os.environ[ENVIRONMENT])] if os.environ.get(ENVIRONMENT) else []
    places.append(Path(torch.hub.get_dir()) / "checkpoints")
    for package, inside in (("lpips", "weights/v0.1"), ("torchmetrics", "functional/image/lpips_models")):
        # Found, not imported: importing them needs torchvision.
        spec = find_spec(package)
        places += [Path(root) / inside for root in (spec.submodule_search_locations or [])] if spec else []
    return places


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(pixels(image).copy()).permute(2, 0, 1).to(torch.float32) / 127.5 - 1


def _by_size(images: Sequence[Image.Image], batch: int) -> list[list[int]]:
    """Indices in batches of equal image size."""
    sizes: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        sizes.setdefault(image.size, []).append(index)
    return [group[start : start + batch] for group in sizes.values() for start in range(0, len(group), batch)]
