"""Named studies.

    from sinkscope.recipes import preset
    study = preset("paper/table6").study(model="path/to/sd3")

`presets()` lists them. `compare` sets the run of a preset of the paper beside what its release states.
"""

from sinkscope.recipes._compare import compare
from sinkscope.recipes._preset import AS_RELEASED, CORRECTED, Preset, Variant
from sinkscope.recipes._published import Published, defects, published
from sinkscope.recipes._registry import preset, presets
from sinkscope.recipes._setting import Setting

__all__ = [
    "AS_RELEASED",
    "CORRECTED",
    "Preset",
    "Published",
    "Setting",
    "Variant",
    "compare",
    "defects",
    "preset",
    "presets",
    "published",
]
