"""LPIPS 0.1: an ImageNet backbone of torchvision and the linear weights of the `lpips` package, in one
file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sinkscope.errors import UsageError

from .._files import sha256
from .._lpips_net import LAYOUTS, RELEASED, Net, expected_keys
from ._common import Part, load_pickle, write_folder


def convert(sources: Sequence[Path], target: Path, *, net: Net) -> None:
    """Write `target` from a backbone file and a file of linear weights; the rest of the backbone is left
    out."""
    state: dict[str, Tensor] = {}
    for path, keys in zip(sources, expected_keys(net), strict=True):
        found = load_pickle(path)
        if absent := [key for key in keys if key not in found]:
            raise UsageError(
                f"{path.name} lacks {absent[0]!r} and {len(absent) - 1} more of {len(keys)} tensors: it "
                "is not "
                f"LPIPS weights for {net!r}. Give the backbone first, then the linear weights."
            )
        state |= {key: found[key].float() for key in keys}
    first = state["features.0.weight"].shape[0]
    if first != LAYOUTS[net].channels[0]:
        raise UsageError(
            f"{sources[0].name} has {first} channels first, expected {LAYOUTS[net].channels[0]}."
        )
    released = all(
        sha256([path]).startswith(file.sha) for path, file in zip(sources, RELEASED[net], strict=True)
    )
    about = {"metric": "lpips", "version": "0.1", "net": net, "released": released}
    write_folder(target, {"": Part(state, None)}, about, sources)
