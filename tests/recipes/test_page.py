"""docs/presets.md lists what the registry has."""

from __future__ import annotations

from pathlib import Path

from sinkscope.recipes import presets
from sinkscope.recipes._page import START, STOP, listing

PAGE = Path(__file__).parents[2] / "docs" / "presets.md"


def test_the_generated_part_is_what_the_registry_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = text.split(START)[1].split(STOP)[0]
    assert written.strip() == listing(presets()).strip(), (
        "run: python -m sinkscope.recipes._page docs/presets.md"
    )
