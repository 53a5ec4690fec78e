"""Renew the tables of pages: `python -m sinkscope.models.families README.md docs/families.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from ._page import renew

if __name__ == "__main__":
    for page in sys.argv[1:]:
        renew(Path(page))
