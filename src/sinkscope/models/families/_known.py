"""The table of supported models: what the family tests saw, kept in `supported.json`.

`python -m tests.zoo` (in the repository) runs every tiny model and writes the file; a test compares it with
what it sees. Nothing in it is typed by hand.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "supported.json"
_ORDER = ("image", "video", "audio", "language", "vision")


@cache
def supported() -> dict[str, Any]:
    """The file: versions it was made with, and one entry per model."""
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def known_families() -> list[dict[str, str]]:
    """One row of words per model that the tests run, by group and name.

    Columns: model, group, class, kinds of attention, order of the keys, guidance, text (whether tokens have
    strings), tokens_from_config (whether `attention_map` knows them without a run), not_seen (what is
    refused), tested (the pipeline, or the module alone).
    """
    rows = sorted(supported()["families"], key=lambda row: (_ORDER.index(row["group"]), row["title"].lower()))
    return [
        {
            "model": row["title"],
            "group": row["group"],
            "class": row["class"],
            "kinds": ", ".join(row["kinds"]),
            "keys": "; ".join(row["keys"]),
            "guidance": row["guidance"],
            "text": "yes" if row["text"] else "no",
            "tokens_from_config": "yes" if row["from_config"] else "no",
            "not_seen": row["refused"] or "",
            "tested": row["tested"],
        }
        for row in rows
    ]
