"""What a key is, from its segment and its role in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

CLASSES: Mapping[str, str] = {
    "pad": "padding",
    "bos": "structure",
    "eos": "structure",
    "template": "structure",
    "content": "content",
    "mask": "masked",
}
"""Role of a text token -> class. Begin and end marks and the template around a prompt are structure: they are
the same in every prompt; the words of the prompt are content; padding carries nothing; masked tokens are
those that a masked-diffusion language model has still to write."""
UNKNOWN = "text without role"
"""Class of text tokens that nobody tokenised, so that their role is not known."""


def classes(frame: pd.DataFrame) -> pd.Series:
    """padding, structure, content, image, ...: one class per row.

    Text goes by its role; keys of other segments by the name of their segment.

    Args:
        frame: Any table with the columns `segment` and `role`.
    """
    segment = _words(frame, "segment").fillna("unknown")
    by_role = _words(frame, "role").map(dict(CLASSES)).fillna(UNKNOWN)
    return segment.where(segment != "text", by_role)


def kinds(frame: pd.DataFrame) -> pd.Series:
    """`image`, `text: bos`, `text: pad`, ...: the segment, with the role where one is known."""
    segment, role = _words(frame, "segment").fillna("unknown"), _words(frame, "role")
    return segment.where(role.isna(), segment + ": " + role.fillna(""))


def in_order(names: Sequence[str]) -> list[str]:
    """Classes or kinds in a fixed order: what is painted, structure, content, padding, others by name."""
    painted = ("video", "image", "audio")
    first = (*painted, "text: bos", "text: eos", "text: template", "structure", "text: content", "content")
    order = {name: place for place, name in enumerate((*first, "text: pad", "padding"))}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


def _words(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame.columns:
        return pd.Series(None, index=frame.index, dtype="object")
    return frame[name].astype("object").where(frame[name].notna(), None)
