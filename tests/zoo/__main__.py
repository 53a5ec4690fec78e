"""Write the table of supported models from what runs of all specimens show: `python -m tests.zoo`."""

from __future__ import annotations

import json
from pathlib import Path

import sinkscope.models.families as families

from . import SPECIMENS
from .seen import seen, versions

if __name__ == "__main__":
    rows = [seen(specimen) for specimen in SPECIMENS.values()]
    table = {"seen_with": versions(), "families": rows}
    path = Path(families.__file__).parent / "supported.json"
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(rows)} families: {path}")
