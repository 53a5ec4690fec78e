"""Videos as animated PNG: lossless, one file per video, played by browsers and read by Pillow.

Every frame is a frame of the file, also where nothing moves. Frames after the first hold the part that
changed. Equal videos give equal bytes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import Blend

from sinkscope.errors import StoreError
from sinkscope.study import _files

Frames = NDArray[np.uint8]
"""One video: `[frame, height, width, 3]`, 8-bit RGB."""
FPS = 8
"""Frames per second at which a viewer plays the file; how fast a model's frames were meant to follow each
other is not known to a pipeline. Nothing is computed from it."""


def to_bytes(video: Frames) -> bytes:
    """A video as the bytes of its file."""
    images = [Image.fromarray(frame) for frame in video]
    # Pillow merges equal neighbours into one frame of twice the duration unless they are blended
    # differently; over an opaque picture both ways of blending are the same.
    blend = [(Blend.OP_SOURCE, Blend.OP_OVER)[index % 2] for index in range(len(images))]
    moving: dict[str, Any] = {
        "save_all": True,
        "append_images": images[1:],
        "duration": 1000 // FPS,
        "loop": 0,
        "blend": blend,
    }
    buffer = io.BytesIO()
    # Level 4 takes 2.5 times as long for files that are a seventh smaller, and a video has many frames.
    images[0].save(buffer, format="PNG", compress_level=1, **(moving if len(images) > 1 else {}))
    return buffer.getvalue()


def read(path: Path) -> Frames:
    """Read a video completely.

    Raises:
        StoreError: The file is missing or damaged.
    """
    data = _files.read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as file:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)])
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise StoreError(
            f"{path} is a damaged video ({len(data)} bytes: {error}). Run the same study into this folder "
            "again: only the damaged videos are generated anew."
        ) from error
