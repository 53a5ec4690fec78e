"""Where in the picture an image token lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def image_grid(inputs: Mapping[str, Any], count: int) -> list[tuple[int, int]] | None:
    """Row and column of each image token: from position ids where the model is given them, else from the
    latents' shape."""
    ids = inputs.get("img_ids")
    if isinstance(ids, Tensor) and ids.shape[-2] == count and ids.shape[-1] == 3:
        places = ids.reshape(-1, count, 3)[0].long().tolist()
        return [(row, column) for _, row, column in places]
    latents = next((inputs[name] for name in ("hidden_states", "sample") if name in inputs), None)
    if not isinstance(latents, Tensor) or latents.dim() != 4:
        return None
    height, width = latents.shape[2:]
    for factor in range(1, min(height, width) + 1):
        # Strided convolutions round up, patches need a whole number: both meet where the product is the
        # count.
        rows, columns = -(-height // factor), -(-width // factor)
        if rows * columns == count:
            return [divmod(position, columns) for position in range(count)]
    return None
