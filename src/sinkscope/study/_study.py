"""A study as data: the model, the prompts, the arms, the metrics and the margins that were declared
beforehand.

A YAML file, the command line and Python build this one frozen object. It holds no tensors and no results. Its
hash covers everything that can change an image or a recorded attention weight; metrics, margins, level, draws
and name can change later without generating again, so they are not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sinkscope.errors import StoreError, UsageError, unknown
from sinkscope.models import Edit
from sinkscope.prompts import PromptRecord
from sinkscope.study import _validate
from sinkscope.study._arm import Arm, ArmLike, arms_from, as_arm, normal_arm, plain_arm
from sinkscope.study._files import canonical, digest, dump_yaml, read_yaml
from sinkscope.study._observe_plan import ObservePlan

ANALYSIS_FIELDS = (
    "metrics",
    "metric_options",
    "distances",
    "margins",
    "equivalence",
    "level",
    "draws",
    "interval",
    "name",
)
LEFT_OUT = (
    "distances",
    "prompt_seed",
    "prompt_tasks",
    "prompt_order",
    "noise_base",
    "equivalence",
    "null_arms",
    "frames",
    "split",
    "interval",
)
"""Fields that `to_dict` leaves out at their default, so that studies without them keep their hash."""
BASELINE = "baseline"
NO_TASK = "prompt"


@dataclass(frozen=True)
class Study:
    """One experiment: every unit (a prompt with a seed) is generated once in every arm.

    Example:
        >>> from sinkscope.attention import TopMass
        >>> sink = Edit(TopMass(keys_per_head=1))
        >>> study = Study(arms={"sink": sink, "random": sink.control("count")}, n_prompts=12)
        >>> study.arm_names
        ('baseline', 'sink', 'random')
        >>> Study.from_dict(study.to_dict()) == study
        True

    Raises:
        UsageError: A setting is out of range, names something that does not exist, or contradicts another
            one.
    """

    model: str = "shapes"
    """"shapes" or "shapes-unet" (embedded), a local pipeline folder, or a hub id."""
    prompts: str | tuple[PromptRecord, ...] = "shapes"
    """A prompt set by name, a file, or the prompts themselves (texts or `PromptRecord`s)."""
    arms: Mapping[str, ArmLike] = field(default_factory=dict)
    """Arm name -> edit, edits that act together, an `Arm` that also changes the sampling, or None (no edit).
    The arm "baseline" is implied and comes first."""
    metrics: tuple[str, ...] = ("scene",)
    """Names of metrics; `sinkscope score --list` shows them."""
    metric_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Metric -> its options, for example `{"clip_t": {"checkpoint": "openai/clip-vit-base-patch32"}}`."""
    distances: tuple[str, ...] = ()
    """Distances between arms as sets of images, such as "kid"; those named in `metrics` are moved here."""
    seeds: tuple[int, ...] = (0,)
    """Each prompt is generated once per seed."""
    n_prompts: int | None = None
    """How many prompts to draw from the set, stratified over its tasks. None: all."""
    prompt_seed: int = 0
    """Keys the draw of prompts from a named set or file."""
    prompt_tasks: tuple[str, ...] | None = None
    """Draw from these tasks of the set only. None: all."""
    prompt_order: str = "stratified"
    """"stratified", or "file": the first `n_prompts` of the set as they stand, which may be one task only."""
    noise_base: int | None = None
    """Prompt i starts from the torch seed noise_base + i (plus the study's only seed), as scripts that count
    seeds up do. None: noise keyed by prompt id and seed."""
    steps: int = 20
    """Sampler steps."""
    guidance: float | None = None
    """Guidance scale. None: what the pipeline does by itself."""
    height: int | None = None
    """Pixels. None: what the pipeline does by itself."""
    width: int | None = None
    """Pixels. None: what the pipeline does by itself."""
    frames: int | None = None
    """Frames of a video, for pipelines that make videos. None: what the pipeline does by itself."""
    batch: int | None = None
    """Units per batch. None: chosen from the model's size and device, and recorded."""
    null_arms: str = "compare"
    """Null arms. "compare": every attention call of the unedited arm is asked whether the null edit would
    change a bit, and the arm is generated only where it would. "full": it is generated always."""
    split: bool = False
    """Form edited outputs by the additive split, as `intervene(..., split=True)` does; null arms are then
    generated, since they take that way too."""
    observe: ObservePlan | None = field(default_factory=ObservePlan)
    """What to record of the attention. None: nothing."""
    margins: Mapping[str, float | Literal["seed"]] = field(default_factory=dict)
    """Metric -> largest difference that counts as equivalent, declared before looking. "seed": calibrated
    from the seed-to-seed noise of the same run."""
    equivalence: tuple[str, ...] = ()
    """Metrics for which a verdict of equivalence is asked; each needs a margin."""
    level: float = 0.95
    """Confidence level of the intervals."""
    draws: int = 10_000
    """Bootstrap draws."""
    interval: str = "auto"
    """How intervals of effects are made: "auto" (by the kind of score) or a method of `stats.mean_interval`
    for every score: "combined", "bca", "percentile", "studentised" or "t"."""
    name: str = "study"
    """For titles and the default folder name."""

    def __post_init__(self) -> None:
        """Normalise sequences and mappings, then validate."""
        metrics, sets = _validate.split(_strings("metrics", self.metrics))
        normal = {
            "arms": {name: normal_arm(name, value) for name, value in _mapping("arms", self.arms).items()},
            "metrics": metrics,
            "distances": tuple(dict.fromkeys((*_strings("distances", self.distances), *sets))),
            "seeds": _sequence("seeds", self.seeds),
            "equivalence": _strings("equivalence", self.equivalence),
            "prompt_tasks": None
            if self.prompt_tasks is None
            else _strings("prompt_tasks", self.prompt_tasks),
            "margins": dict(_mapping("margins", self.margins)),
            "metric_options": {
                name: dict(_mapping(f"metric_options of {name}", value))
                for name, value in _mapping("metric_options", self.metric_options).items()
            },
            "prompts": _prompts(self.prompts),
            "model": str(self.model) if isinstance(self.model, Path) else self.model,
        }
        if isinstance(self.observe, Mapping):
            normal["observe"] = ObservePlan.from_dict(self.observe)
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        _validate.check(self)

    @property
    def arm_names(self) -> tuple[str, ...]:
        """All arms in the order of the study, the baseline first."""
        return (BASELINE, *(name for name in self.arms if name != BASELINE))

    def edits(self, arm: str) -> tuple[Edit, ...]:
        """The edits that act together in an arm; empty for the baseline.

        Raises:
            UsageError: There is no such arm.
        """
        return self.arm(arm).acting

    def arm(self, name: str) -> Arm:
        """An arm with its sampling settings and what it is compared with, as stated.

        Raises:
            UsageError: There is no such arm.
        """
        if name not in self.arm_names:
            raise unknown("arm", name, self.arm_names)
        return as_arm(self.arms.get(name))

    def sampling(self, arm: str) -> dict[str, Any]:
        """How an arm is sampled: seed_shift, steps, guidance, scheduler, height, width, frames, as used."""
        names = ("steps", "guidance", "height", "width", "frames")
        study = {name: getattr(self, name) for name in names}
        return {"seed_shift": 0, "scheduler": None, **study, **self.arm(arm).sampling}

    @cached_property
    def bases(self) -> frozenset[str]:
        """Unedited arms that others are compared with; they themselves are compared with nothing."""
        named = {as_arm(arm).against for arm in self.arms.values()} & set(self.arms)
        return frozenset({BASELINE, *(name for name in named if name and not self.edits(name))})

    def reference(self, arm: str) -> str | None:
        """The arm that an arm is compared with; None for the baseline and other `bases`."""
        if arm in self.bases:
            return None
        return self.arm(arm).against or BASELINE

    def base(self, arm: str) -> str:
        """The unedited arm whose image of a unit distances are measured from; for a base itself."""
        while (reference := self.reference(arm)) is not None:
            arm = reference
        return arm

    @cached_property
    def hash(self) -> str:
        """12 hex digits naming everything that can change an image or a trace."""
        return digest(canonical(self.generation()).encode())[:12]

    def generation(self) -> dict[str, Any]:
        """The part of `to_dict` that can change an image or a trace."""
        return {name: value for name, value in self.to_dict().items() if name not in ANALYSIS_FIELDS}

    def to_dict(self) -> dict[str, Any]:
        """The study as plain data; the inverse of `from_dict`."""
        data: dict[str, Any] = {"name": self.name, "model": self.model}
        data["prompts"] = (
            self.prompts if isinstance(self.prompts, str) else [_record(p) for p in self.prompts]
        )
        data["arms"] = {name: plain_arm(arm) for name, arm in self.arms.items()}
        data["metrics"] = list(self.metrics)
        data["metric_options"] = {name: dict(value) for name, value in self.metric_options.items()}
        data["seeds"] = list(self.seeds)
        for name in ("n_prompts", "steps", "guidance", "height", "width", "batch"):
            data[name] = getattr(self, name)
        data["observe"] = None if self.observe is None else self.observe.to_dict()
        data["margins"] = dict(self.margins)
        data |= {"level": self.level, "draws": self.draws}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in LEFT_OUT and value != entry.default:
                data[entry.name] = list(value) if isinstance(value, tuple) else value
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Study:
        """Build a study from plain data.

        An arm is null, an edit, a list of edits, or the fields of an `Arm`. A control may also be written as
        `{control: count, of: sink, seed: 0}`, which means the "count" control of the arm `sink`, sampled as
        that arm is.
        """
        known = [entry.name for entry in fields(cls)]
        for name in data:
            if name not in known:
                raise unknown("field of a study", name, known)
        values = dict(data)
        if "arms" in values:
            values["arms"] = arms_from(_mapping("arms", values["arms"]))
        if isinstance(values.get("observe"), Mapping):
            values["observe"] = ObservePlan.from_dict(values["observe"])
        return cls(
            **{name: {} if name == "margins" and value is None else value for name, value in values.items()}
        )

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The study as YAML text, also written to `path` where one is given."""
        text = dump_yaml(self.to_dict())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_yaml(cls, path: str | Path) -> Study:
        """Read a study file, or the `study.yaml` of a run.

        Raises:
            UsageError: The file is missing, is no YAML, or does not describe a study.
        """
        if not Path(path).is_file():
            raise UsageError(
                f"The study file {path} is missing. Expected a .yaml file; `sinkscope presets` lists the "
                "named studies, which need none."
            )
        try:
            data = read_yaml(Path(path))
        except StoreError as error:
            raise UsageError(f"Cannot read the study {path}: {error}") from error
        if "format" in data:
            known = [entry.name for entry in fields(cls)]
            data = {name: value for name, value in data.items() if name in known}
        return cls.from_dict(data)


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}={value!r}: expected a mapping from names.")
    return value


def _sequence(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
        raise UsageError(f"{name}={value!r}: expected a list.")
    return tuple(value)


def _strings(name: str, value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else _sequence(name, value)


def _prompts(value: object) -> str | tuple[PromptRecord, ...]:
    if isinstance(value, (str, Path)):
        return str(value)
    records = []
    for index, item in enumerate(_sequence("prompts", value)):
        if isinstance(item, str):
            item = {"id": f"p{index:04d}", "text": item, "task": NO_TASK, "metadata": {}}
        if isinstance(item, Mapping):
            item = _prompt_from(index, item)
        if not isinstance(item, PromptRecord):
            raise UsageError(f"Prompt {index} is {item!r}: expected a text or a PromptRecord.")
        records.append(item)
    return tuple(records)


def _prompt_from(index: int, item: Mapping[str, Any]) -> PromptRecord:
    known = ("id", "text", "task", "metadata")
    for key in item:
        if key not in known:
            raise unknown(f"field of prompt {index}", key, known)
    if "text" not in item:
        raise UsageError(f"Prompt {index} has no text: {dict(item)!r}.")
    filled = {"id": f"p{index:04d}", "task": NO_TASK, "metadata": {}, **item}
    return PromptRecord(**filled)


def _record(prompt: PromptRecord) -> dict[str, Any]:
    return {"id": prompt.id, "text": prompt.text, "task": prompt.task, "metadata": dict(prompt.metadata)}
