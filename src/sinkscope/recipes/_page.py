"""The generated part of docs/presets.md: `python -m sinkscope.recipes._page docs/presets.md` renews it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

from sinkscope.recipes._preset import Preset
from sinkscope.study import Study

START, STOP = "<!-- generated from the registry -->", "<!-- end of the generated part -->"
WIDTH = 110


def listing(presets: Iterable[Preset]) -> str:
    """One section per preset: what it asks, its variants, and their plans."""
    return "\n".join(line for preset in presets for line in _section(preset))


def _section(preset: Preset) -> list[str]:
    others = f" (also `{'`, `'.join(preset.aliases)}`)" if preset.aliases else ""
    lines = ["", f"### {preset.name}", "", *_wrapped(f"{preset.title}: {preset.paper}{others}.")]
    repaired = f" Repaired: {', '.join(preset.repaired)}." if preset.repaired else ""
    lines += _wrapped(preset.question + repaired)
    for name, variant in preset.variants.items():
        lines += ["", *_wrapped(f"- `{name}`: {variant.text}", indent="  ")]
        lines += [line for text in variant.differs for line in _wrapped(f"  Differs: {text}", indent="  ")]
        lines += _wrapped(f"  {_plans(preset, name)}", indent="  ")
    return lines


def _plans(preset: Preset, variant: str) -> str:
    model = preset.model_of(variant)
    demo = preset.study(variant, model=model, scale="demo")
    full = preset.study(variant, model=model if preset.models else preset.paper_model, scale="full")
    return f"Demo on `{model}`: {_size(demo)}. Full: {_size(full)}."


def _size(study: Study) -> str:
    prompts = len(study.prompts) if study.n_prompts is None else study.n_prompts
    seeds = f" x {len(study.seeds)} seeds" if len(study.seeds) > 1 else ""
    arms = len(study.arm_names)
    each = "arm" if arms == 1 else "arms"
    steps = "1 step" if study.steps == 1 else f"{study.steps} steps"
    return f"{prompts} prompts{seeds} x {arms} {each}, {steps}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def renew(path: Path) -> None:
    """Write the generated part of a page anew."""
    from sinkscope.recipes import presets

    text = path.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(STOP)[1]
    path.write_text(f"{before}{START}\n{listing(presets())}\n\n{STOP}{after}", encoding="utf-8")


if __name__ == "__main__":
    renew(Path(sys.argv[1]))
