"""The numbers that the paper's public release states, read from `paper/published.json`.

The file says for each of them where it stands, in which words, and which known faults of the release bear on
it. Cells that the release leaves out have no entry; a claim made in words has an entry without a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "paper" / "published.json"


@dataclass(frozen=True)
class Published:
    """One stated number, or one claim about a cell.

    Attributes:
        presets: Presets whose table or figure it belongs to.
        metric: What was measured: a metric of `sinkscope.metrics`, or a column of the attention tables.
        quantity: "mean" of an arm, "effect" (mean paired difference to `reference`), "ratio" of means,
            "reduction", "share", "curve", "range", "bound", "count", "prompt", "runtime" (hours).
        source: File of the release and place in it.
        text: The words there.
        arm: Arm of the preset.
        reference: What the arm is compared with.
        at: Where: layer, point of a curve, prompt, kind of site.
        value: As stated; None for a claim without a number, and for a range.
        relation: How it is stated: "=", "~", "<", ">" or "|x| <".
        low: Lower end of the 95 % interval, or of the range.
        high: Upper end.
        p: As stated, with `p_relation` "=" or "<".
        p_relation: See `p`.
        n: Prompts.
        claim: What is said in words.
        defects: Numbers of known faults of the release.
        note: Remarks of this package.
        model: The model it was measured on.
    """

    presets: tuple[str, ...]
    metric: str
    quantity: str
    source: str
    text: str
    arm: str | None = None
    reference: str | None = None
    at: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    relation: str | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_relation: str | None = None
    n: int | None = None
    claim: str | None = None
    defects: tuple[str, ...] = ()
    note: str = ""
    model: str = ""


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def published(preset: str | None = None) -> list[Published]:
    """Return what the release states about a preset, or everything it states.

    Example:
        >>> [entry.value for entry in published("paper/table6") if entry.quantity == "mean"]
        [0.347, 0.053, 0.436, 0.104]
    """
    model = _document()["model"]
    rows = [
        Published(
            **{
                "model": model,
                **entry,
                "presets": tuple(entry["presets"]),
                "defects": tuple(entry.get("defects", ())),
            }
        )
        for entry in _document()["entries"]
    ]
    return [row for row in rows if preset is None or preset in row.presets]


def defects() -> dict[str, str]:
    """Return the known faults of the release that bear on a stated number, by their number."""
    return dict(_document()["defects"])
