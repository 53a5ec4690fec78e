"""Where in the picture, or in which frame of the video, a visual token lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

LATENTS = ("hidden_states", "sample", "x")


class Place(NamedTuple):
    """Place of one token; None where it spans the whole axis or nobody knows."""

    frame: int | None
    row: int | None
    column: int | None


class Extent(NamedTuple):
    """Size of a video's latents."""

    frames: int
    height: int
    width: int


def image_grid(inputs: Mapping[str, Any], count: int) -> list[tuple[int, int]] | None:
    """Row and column of each image token: from position ids where the model is given them, else from the
    latents' shape."""
    ids = inputs.get("img_ids")
    if isinstance(ids, Tensor) and ids.shape[-2] >= count and ids.shape[-1] in (3, 4):
        # Images to look at may follow the one that is painted.
        return _ranked(ids.reshape(-1, *ids.shape[-2:])[0, :count])
    shapes = inputs.get("img_shapes")
    if shapes:
        sizes = shapes[0] if isinstance(shapes[0], list) else shapes
        # Images to look at follow the painted one, or stand within the text before it (Qwen-Image 2.1).
        sizes = sizes[-1:] if "img_mask" in inputs else sizes
        found = [divmod(i, width) for *_, height, width in sizes for i in range(height * width)]
        return found[:count] if len(found) >= count else None
    ids = inputs.get("position_ids")
    if isinstance(ids, Tensor) and ids.dim() > 1 and ids.shape[-1] == 3 and ids.shape[-2] >= count:
        # One sequence whose last tokens are the image, with time, row and column of each.
        return _ranked(ids.reshape(-1, *ids.shape[-2:])[0, -count:])
    latents = _latents(inputs)
    if latents is not None and latents.dim() == 6 and "shape_list" not in inputs:
        latents = latents[:, -1, :, 0]  # the last of several images of one frame
    if latents is None or latents.dim() != 4:
        return None
    return _squares(latents.shape[2], latents.shape[3], count)


def _ranked(ids: Tensor) -> list[tuple[int, int]]:
    """Rows and columns from position ids `[token, (time, row, column, ...)]`, which may start anywhere and be
    scaled (FLUX.3)."""
    rows, columns = (ids[:, axis].unique(return_inverse=True)[1].tolist() for axis in (1, 2))
    return list(zip(rows, columns, strict=True))


def visual_places(
    inputs: Mapping[str, Any],
    count: int,
    *,
    config: Any = None,
    axes: str | None = None,
    folds: int = 1,
    temporal: bool = False,
) -> list[list[Place]] | None:
    """Places of the visual keys of a call, None where the shapes do not tell.

    Args:
        inputs: Arguments of the denoiser's forward pass.
        count: Visual keys of the call.
        config: Configuration of the denoiser, for its patch size and number of channels.
        axes: Order of the latents' axes behind the batch, of the letters c, f, h, w; None: found by the
            number of channels.
        folds: Rows of the call per row of the denoiser's batch: frames, or places of temporal attention.
        temporal: Whether the keys are the frames of one place.

    Returns:
        One list per fold, each with one place per key.
    """
    extent = _extent(inputs, config, axes)
    if extent is None:
        # Windows of a picture are folded into the rows: which window a row is, is not known.
        grid = None if temporal or folds > 1 else image_grid(inputs, count)
        return None if grid is None else [[Place(None, *place) for place in grid]]
    if temporal:
        return _over_time(extent, count, folds)
    if folds > 1:
        grid = _squares(extent.height, extent.width, count) if folds == extent.frames else None
        return None if grid is None else [[Place(f, *place) for place in grid] for f in range(folds)]
    size = _patched(extent, config)
    if size.frames * size.height * size.width != count:
        return None
    plane = size.height * size.width
    return [[Place(key // plane, *divmod(key % plane, size.width)) for key in range(count)]]


def _over_time(extent: Extent, count: int, folds: int) -> list[list[Place]] | None:
    if count != extent.frames:
        return None
    grid: Sequence[tuple[int | None, int | None]] | None = _squares(extent.height, extent.width, folds)
    grid = [(None, None)] * folds if grid is None else grid
    return [[Place(frame, *place) for frame in range(count)] for place in grid]


def _latents(inputs: Mapping[str, Any]) -> Tensor | None:
    latents = next((inputs[name] for name in LATENTS if inputs.get(name) is not None), None)
    if isinstance(latents, list) and latents and isinstance(latents[0], Tensor) and latents[0].dim() == 4:
        # A list with one image of one frame for each row.
        return latents[0].transpose(0, 1) if latents[0].shape[1] == 1 else latents[0].unsqueeze(0)
    return latents if isinstance(latents, Tensor) else None


def _extent(inputs: Mapping[str, Any], config: Any, axes: str | None) -> Extent | None:
    """Latent frames, rows and columns of a video; None for anything else."""
    latents = _latents(inputs)
    if latents is None:
        return None
    named = [inputs.get(name) for name in ("num_frames", "height", "width")]
    if latents.dim() == 3 and all(isinstance(size, int) for size in named):
        return Extent(*named)  # type: ignore[arg-type]
    if latents.dim() != 5:
        return None
    if axes is None:
        channels = getattr(config, "in_channels", None)
        orders = [order for order in ("cfhw", "fchw") if latents.shape[1 + order.index("c")] == channels]
        if len(orders) != 1:
            return None
        axes = orders[0]
    return Extent(*(latents.shape[1 + axes.index(axis)] for axis in "fhw"))


def _patched(extent: Extent, config: Any) -> Extent:
    """Tokens along each axis."""
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, (tuple, list)):
        time, *place = patch
    else:
        time, place = getattr(config, "patch_size_t", None), [patch or 1]
    return Extent(extent.frames // (time or 1), extent.height // place[0], extent.width // place[-1])


def _squares(height: int, width: int, count: int) -> list[tuple[int, int]] | None:
    """Rows and columns of tokens that each stand for a square of latents."""
    for factor in range(1, min(height, width) + 1):
        # Strided convolutions round up, patches need a whole number: both meet where the product is the
        # count.
        rows, columns = -(-height // factor), -(-width // factor)
        if rows * columns == count:
            return [divmod(position, columns) for position in range(count)]
    return None
