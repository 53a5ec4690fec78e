"""Images on their way into a metric: plain 8-bit RGB, or an error that says what is wrong with them.

Converting silently would move scores: dropping an alpha channel shows hidden colours, and 16-bit values are
cut. Grey and palette images without transparency have one exact RGB form and are accepted.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sinkscope.errors import SinkscopeError

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for a damaged file, by format."""


class ImageError(SinkscopeError):
    """An image that a metric cannot score; the message says why. Other images of the batch are unaffected."""


def open_image(path: str | Path) -> Image.Image:
    """Read an image file completely and return it as RGB.

    Raises:
        ImageError: The file is missing, truncated, not an image, or not plain 8-bit colour.
    """
    file = Path(path)
    try:
        with Image.open(file) as image:
            return to_rgb(image)
    except FileNotFoundError:
        raise ImageError(f"{file.name}: no such file. Generate it again.") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{file.name}: not an image file, expected PNG, JPEG or WebP. Generate it again."
        ) from None
    except ImageError as error:
        raise ImageError(f"{file.name}: {error}") from error
    except _UNREADABLE as error:
        raise ImageError(f"{file.name}: cannot be opened ({error}). Generate it again.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as 8-bit RGB without changing any colour, or raise `ImageError`."""
    # Pillow cuts 16-bit colour to 8 bits while loading, and only the tile of the unloaded image says so.
    if image.mode.startswith(("I", "F")) or any(";16" in str(tile) for tile in getattr(image, "tile", [])):
        raise ImageError(
            f"Got more than 8 bits per channel (mode {image.mode}), expected 8-bit RGB. Convert it first."
        )
    try:
        image.load()
    except _UNREADABLE as error:
        raise ImageError(f"cannot be read ({error}). Generate it again.") from error
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        raise ImageError(
            f"Got mode {image.mode} with transparency, expected RGB. Flatten it on a background first."
        )
    if image.mode == "RGB":
        return image
    if image.mode in ("L", "P"):
        return image.convert("RGB")
    raise ImageError(f"Got mode {image.mode}, expected 8-bit RGB. Convert it first.")


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return the `[height, width, 3]` bytes of an image that `to_rgb` accepts."""
    return np.asarray(to_rgb(image), dtype=np.uint8)
