"""The same study on models of any depth: where to edit, how many keys, which prompts and metrics.

The paper's numbers are for SD3 medium: layers 6, 12 and 18 of 24, budgets of k x 24 keys out of 4429, 64 to
553 prompts. On another model the layers stand at the same fractions of the depth, and at demo scale budgets
are the same shares of the keys. In a UNet "the middle layer" is the middle block, self- and cross-attention
alike, and "several layers" are all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sinkscope.recipes._facts import Facts

Scale = Literal["demo", "full"]
SCALES = ("demo", "full")
CLIP = "openai/clip-vit-base-patch32"
ALIGNMENT = ("clip_t", "scene")
"""Metrics of whether the image shows what the prompt says: what "not needed" is a claim about."""
MARGINS = {
    "scene": 0.05,
    "clip_t": 0.01,
    "ssim": 0.05,
    "rmse": 0.02,
    "lpips": 0.05,
    "hps": 0.005,
    "imagereward": 0.1,
}
"""Smallest differences that would matter, declared with the presets before any of them was run: five images
in a hundred, a hundredth of a cosine, a twentieth of a distance."""
_PAPER_KEYS = 4096 + 333
_PAPER_HEADS = 24


@dataclass(frozen=True)
class Setting:
    """A model and a scale, as the files of the presets see them."""

    model: Facts
    scale: Scale

    @property
    def full(self) -> bool:
        """Whether prompts, steps and budgets are the paper's."""
        return self.scale == "full"

    # ---- where

    @property
    def middle(self) -> dict[str, Any]:
        """Scope of an edit of the paper's single layer: block n/2; of a UNet the middle block."""
        if self.model.family == "unet":
            return {"sites": "mid_block*", "kind": "all"}
        return {"layers": [self.model.layers // 2]}

    @property
    def several(self) -> dict[str, Any]:
        """Scope of an edit of the paper's three layers: n/4, n/2 and 3n/4; of a UNet all blocks."""
        return {"kind": "all"} if self.model.family == "unet" else {"layers": sorted(set(self.three))}

    @property
    def three(self) -> tuple[int, int, int]:
        """Blocks n/4, n/2 and 3n/4."""
        n = self.model.layers
        return n // 4, n // 2, 3 * n // 4

    @property
    def watched(self) -> dict[str, Any]:
        """Observation of the three layers; of a UNet of all of them."""
        return {} if self.model.family == "unet" else {"layers": sorted(set(self.three))}

    def text_sites(self, scope: dict[str, Any]) -> dict[str, Any]:
        """The part of a scope that has text keys."""
        return {**scope, "kind": "cross"} if self.model.family == "unet" else scope

    def image_sites(self, scope: dict[str, Any]) -> dict[str, Any]:
        """The part of a scope that has image keys."""
        return {**scope, "kind": "self"} if self.model.family == "unet" else scope

    # ---- how many

    def shared(self, k: int) -> int:
        """The release's shared budget: k keys per head in one set for all heads of a layer.

        At full scale k times the model's heads; at demo scale, and in a UNet, the share of all keys that this
        is in SD3.
        """
        if self.full and self.model.family == "joint":
            return k * self.model.heads
        return max(1, round(k * _PAPER_HEADS / _PAPER_KEYS * self.model.keys))

    def ladder(self, *ks: int) -> dict[int, int]:
        """The shared budget of each k; of several k that come to the same number of keys the first."""
        found: dict[int, int] = {}
        for k in ks:
            if (keys := self.shared(k)) not in found.values():
                found[k] = keys
        return found

    def per_head(self, *ks: int) -> tuple[int, ...]:
        """Budgets per head: the paper's k at full scale.

        At demo scale, and in a UNet, as many budgets, in equal ratios from 1 to what leaves a control as many
        other keys of the smallest segment.
        """
        if self.full and self.model.family == "joint":
            return ks
        most = max(2, min(self.model.image, self.model.text) // 2 - 1)
        if max(ks) <= most // 3:
            return ks
        steps = max(1, len(ks) - 1)
        return tuple(dict.fromkeys(round(most ** (index / steps)) for index in range(len(ks))))

    # ---- from what

    def stratified(self, *, full: int, demo: int) -> dict[str, Any]:
        """Prompts over all tasks in equal shares."""
        source = "shapes" if self.model.embedded else "geneval"
        return {"prompts": source, "n_prompts": full if self.full else demo}

    def first_lines(self, *, full: int, demo: int) -> dict[str, Any]:
        """The first lines of the file, as the release took them: of GenEval the first 80 are one task."""
        return {**self.stratified(full=full, demo=demo), "prompt_order": "file"}

    def balanced(self, *, full: int, demo: int) -> dict[str, Any]:
        """The release's 100 prompts of GenEval in its order; of an embedded model equal shares per task."""
        if self.model.embedded:
            return self.stratified(full=full, demo=demo)
        from sinkscope import prompts
        from sinkscope.recipes.paper._balanced import BALANCED

        everything = prompts.load("geneval")
        count = full if self.full else demo
        return {"prompts": [everything[index] for index in BALANCED[:count]]}

    def given(self, texts: Sequence[str], *, demo: int) -> dict[str, Any]:
        """Prompts of a script of the release; of an embedded model as many of its own."""
        if self.model.embedded:
            return self.stratified(full=len(texts), demo=demo)
        return {"prompts": list(texts) if self.full else list(texts)[:demo]}

    # ---- how

    def steps(self, full: int, demo: int = 20) -> int:
        """Sampler steps."""
        return full if self.full else demo

    def guidance(self, value: float, *, usual: float) -> float:
        """A guidance scale of the release; on a model with another usual one the same multiple of it."""
        if self.model.embedded:
            return round(value / usual * self.model.guidance, 3)
        return value

    def explicit(self, value: float) -> float | None:
        """The guidance scale a script of the release passes; an embedded model keeps its own."""
        return None if self.model.embedded else value

    # ---- judged by

    def metrics(self, *wanted: str) -> dict[str, Any]:
        """Metrics of a table: the paper's at full scale; otherwise those that mean something on the model and
        need no weights, or have them here."""
        if self.model.embedded:
            return _measured("scene", "clip_t", "ssim", "rmse", *_ready("lpips"))
        if not self.full:
            return _measured("ssim", "rmse", *_ready("lpips"))
        return _measured(*wanted, **({"clip_t": {"checkpoint": CLIP}} if "clip_t" in wanted else {}))

    def judged(self, *wanted: str) -> dict[str, Any]:
        """Metrics with their declared margins; equivalence is asked for alignment."""
        found = self.metrics(*wanted)
        margins = {name: MARGINS[name] for name in found["metrics"] if name in MARGINS}
        asked = tuple(name for name in found["metrics"] if name in ALIGNMENT)
        return {**found, "margins": margins, "equivalence": asked}


def _measured(*names: str, **options: dict[str, Any]) -> dict[str, Any]:
    return {"metrics": names, "metric_options": options}


def _ready(*names: str) -> tuple[str, ...]:
    from sinkscope import metrics

    ready = {info.name for info in metrics.available() if info.status == "ready"}
    return tuple(name for name in names if name in ready)
