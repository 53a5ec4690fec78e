"""What a study may say. One function per rule, one clear message each; none needs the model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sinkscope.errors import UsageError, unknown

if TYPE_CHECKING:
    from sinkscope.models import Edit
    from sinkscope.prompts import PromptRecord
    from sinkscope.study._study import Study

_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def check(study: Study) -> None:
    """Refuse a study that cannot be run as it stands.

    Raises:
        UsageError: With the first rule that is broken.
    """
    _numbers(study)
    _text("model", study.model)
    _text("name", study.name)
    _metrics(study)
    _arm_names(study)
    _edits(study)
    _controls(study)
    _observed(study)
    if isinstance(study.prompts, str):
        _text("prompts", study.prompts)
    else:
        check_prompts(study.prompts)


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}={value!r}: expected a whole number from {least}.")


def _number(name: str, value: object, low: float, high: float) -> None:
    bad = isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
    if bad or not low < float(value) < high:  # type: ignore[arg-type]
        raise UsageError(f"{name}={value!r}: expected a number between {low:g} and {high:g}.")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name}={value!r}: expected a text that is not empty.")


def _numbers(study: Study) -> None:
    _whole("steps", study.steps, 1)
    _whole("draws", study.draws, 100)
    _number("level", study.level, 0.5, 1.0)
    for name in ("n_prompts", "height", "width", "batch"):
        if getattr(study, name) is not None:
            _whole(name, getattr(study, name), 1)
    if study.guidance is not None:
        _number("guidance", study.guidance, -1e-9, 1e4)
    if not study.seeds:
        raise UsageError("seeds is empty: expected at least one whole number, for example seeds=[0].")
    for seed in study.seeds:
        _whole("a seed in seeds", seed, 0)
    _refuse_repeats("seeds", study.seeds)


def _refuse_repeats(name: str, values: Sequence[Any]) -> None:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise UsageError(f"{name} holds {', '.join(map(repr, repeated))} more than once: expected each once.")


def _metrics(study: Study) -> None:
    from sinkscope import metrics

    known = metrics.names()
    for name in study.metrics:
        if name not in known:
            raise unknown("metric", name, known)
    _refuse_repeats("metrics", study.metrics)
    for name in study.metric_options:
        if name not in study.metrics:
            raise unknown(
                "metric in metric_options (expected one of the study's metrics)", name, study.metrics
            )
    for name, margin in study.margins.items():
        if name not in study.metrics:
            raise unknown("metric in margins (expected one of the study's metrics)", name, study.metrics)
        _number(f"margin of {name}", margin, 0.0, math.inf)


def _arm_names(study: Study) -> None:
    for name in study.arms:
        if not isinstance(name, str) or not _ARM_NAME.fullmatch(name):
            raise UsageError(
                f"Arm name {name!r} cannot be a folder: expected up to 64 letters, digits, '.', '_', '+' or "
                "'-', "
                "starting with a letter or digit."
            )
    folded = [name.lower() for name in study.arm_names]
    _refuse_repeats("arms (upper and lower case are the same folder on some systems)", folded)
    if study.edits("baseline"):
        raise UsageError("The arm 'baseline' is the arm without edits. Give the edit another name.")


def _edits(study: Study) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for name in study.arms:
        edits = study.edits(name)
        key = tuple(edit.hash for edit in edits)
        if edits and key in seen:
            raise UsageError(
                f"The arms {seen[key]!r} and {name!r} are the same edit. Remove one or change it."
            )
        seen[key] = name
        for edit in edits:
            _edit_steps(name, edit, study.steps)


def _edit_steps(name: str, edit: Edit, total: int) -> None:
    if isinstance(edit.steps, tuple) and all(isinstance(step, int) for step in edit.steps):
        late = [step for step in edit.steps if step >= total]
        if late:
            raise UsageError(
                f"Arm {name!r} edits step {late[0]}, but the study has {total} steps (0-{total - 1}). "
                "Change the edit's steps or the study's."
            )


def _controls(study: Study) -> None:
    treated = {edit.hash for name in study.arms for edit in study.edits(name) if edit.control_info is None}
    for name in study.arms:
        for edit in study.edits(name):
            info = edit.control_info
            if info is not None and info.of not in treated:
                raise UsageError(
                    f"Arm {name!r} is the {info.kind!r} control of edit {info.of}, which no arm of this "
                    "study holds. "
                    f"Add the treated arm, or drop {name!r}. Edits here: "
                    f"{', '.join(sorted(treated)) or '(none)'}."
                )


def _observed(study: Study) -> None:
    for arm in study.observe.arms if study.observe is not None else ():
        if arm not in study.arm_names:
            raise unknown("arm in observe.arms", arm, study.arm_names)


def check_prompts(prompts: Sequence[PromptRecord]) -> None:
    """Refuse an empty set, empty texts, and ids or texts that occur twice.

    Raises:
        UsageError: Naming the prompts.
    """
    if not prompts:
        raise UsageError("The study has no prompts: expected at least one.")
    ids: dict[str, int] = {}
    texts: dict[str, int] = {}
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt.text, str) or not prompt.text.strip():
            raise UsageError(
                f"Prompt {index} (id {prompt.id!r}) is empty: expected a text. Remove it or fill it in."
            )
        if prompt.task == "all":
            raise UsageError(
                f"Prompt {index} has the task 'all', the name for all tasks together. Rename the task."
            )
        if prompt.id in ids:
            raise UsageError(
                f"Prompts {ids[prompt.id]} and {index} share the id {prompt.id!r}: expected each id once."
            )
        text = " ".join(prompt.text.split())
        if text in texts:
            raise UsageError(
                f"Prompts {texts[text]} and {index} are the same text {text!r}. They would count as two "
                "independent "
                "prompts. Remove one; for several images of one prompt use several seeds."
            )
        ids[prompt.id] = texts[text] = index
