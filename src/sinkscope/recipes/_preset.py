"""A named study: one table of a paper, as data for any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from sinkscope.errors import UsageError, unknown
from sinkscope.recipes._facts import EMBEDDED, READERS, SD3, Facts, facts
from sinkscope.recipes._setting import SCALES, Setting
from sinkscope.study import Study

Build: TypeAlias = Callable[[Setting], dict[str, Any]]
"""Fields of a `Study`, for a model and a scale."""
CORRECTED, AS_RELEASED = "corrected", "as_released"
_KINDS = {
    "joint": "a model with joint attention",
    "unet": "a model with a UNet",
    "language": "an embedded language model",
    "vision": "an embedded vision transformer",
}


@dataclass(frozen=True)
class Variant:
    """One way of asking a preset's question."""

    build: Build
    """Makes the fields of the study."""
    text: str
    """What this variant does, in one or two sentences."""
    differs: tuple[str, ...] = ()
    """Where it cannot, or for a reason does not, do what the release did."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named study that can be built for any model at any scale.

    Example:
        >>> from sinkscope.recipes import preset
        >>> table = preset("paper/table6")
        >>> study = table.study("as_released", model="stabilityai/stable-diffusion-3-medium-diffusers")
        >>> study.name, study.n_prompts, study.edits("sink_1")[0].select.shared_keys
        ('paper/table6:as_released:full', 64, 24)
    """

    name: str
    """For example "paper/table6"."""
    title: str
    question: str
    """What the study asks, as one sentence."""
    paper: str
    """Tables and figures it stands for."""
    variants: Mapping[str, Variant]
    """The first one is the default."""
    repaired: tuple[str, ...] = ()
    """Known faults of the release that the corrected variant does not have (D1, D2, ...)."""
    aliases: tuple[str, ...] = ()
    """Other names of the same preset."""
    model: str = "shapes"
    """The model it runs on where none is named."""
    paper_model: str = SD3
    """The model of the paper."""
    families: tuple[str, ...] = field(default=("joint", "unet"))
    """Kinds of models it is made for."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Variant -> the model it runs on where none is named, where variants ask about different models."""
    together: bool = False
    """Whether the variants answer the question only beside each other: `sinkscope run` then runs them all."""

    def model_of(self, variant: str) -> str:
        """The model a variant runs on where none is named."""
        return self.models.get(variant, self.model)

    def study(
        self,
        variant: str | None = None,
        *,
        model: str | None = None,
        scale: str | None = None,
        **changes: Any,
    ) -> Study:
        """Build the study.

        Args:
            variant: One of `variants`, the first where not given; of the paper's tables "corrected" or
                "as_released".
            model: An embedded model, a folder, or a hub id. None: `model`.
            scale: "demo" (minutes on two CPU cores for an embedded model) or "full" (the paper's prompts and
                steps). None: "demo" for the embedded models, "full" for any other.
            **changes: Fields of `Study` to set otherwise. Other metrics keep the margins that are declared
                for them.

        Raises:
            UsageError: An unknown variant, scale or field, fewer than two prompts, or a model this preset is
                not made for.
        """
        chosen = next(iter(self.variants)) if variant is None else variant
        if chosen not in self.variants:
            raise unknown(f"variant of {self.name}", chosen, self.variants)
        about = self._facts(self.model_of(chosen) if model is None else str(model))
        size = scale or ("demo" if about.name in (*EMBEDDED, *READERS) else "full")
        if size not in SCALES:
            raise unknown("scale", size, SCALES)
        made = self.variants[chosen].build(Setting(about, size))  # type: ignore[arg-type]  # checked above
        made = {**made, "model": about.name, "name": f"{self.name}:{chosen}:{size}"}
        return Study(**{**made, **_changed(made, changes)})

    def _facts(self, model: str) -> Facts:
        found = facts(model)
        if found.family not in self.families:
            wanted = " or ".join(_KINDS[kind] for kind in self.families)
            known = dict.fromkeys([self.model, *self.models.values(), self.paper_model])
            raise UsageError(
                f"{self.name} asks about {wanted}, such as {' or '.join(map(repr, known))}; {model!r} is "
                "another kind."
            )
        return found


def _changed(made: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes that fit together: margins and options only of metrics that are there."""
    known = [entry.name for entry in fields(Study)]
    for name in changes:
        if name not in known:
            raise unknown("field of a study", name, known)
    count = changes.get("n_prompts")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 2):
        raise UsageError(
            f"n_prompts={count!r}: arms are compared over prompts, so a preset needs a whole number from 2."
        )
    found = dict(changes)
    if "n_prompts" in changes and not isinstance(made.get("prompts"), str) and "prompts" not in changes:
        found["prompts"] = made["prompts"][: found.pop("n_prompts")]
    if "metrics" in changes:
        names = changes["metrics"]
        for entry in ("margins", "metric_options"):
            kept = {name: value for name, value in made.get(entry, {}).items() if name in names}
            found.setdefault(entry, kept)
        asked = tuple(name for name in made.get("equivalence", ()) if name in names)
        found.setdefault("equivalence", asked)
    return found
