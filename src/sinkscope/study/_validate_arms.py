"""What the arms of a study may be, alone and against each other. None of it needs the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sinkscope.errors import UsageError, unknown

if TYPE_CHECKING:
    from sinkscope.models import Edit
    from sinkscope.study._study import Study

_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def check_arms(study: Study) -> None:
    """Refuse arms that cannot be run, or whose comparison would mean something else than it says.

    Raises:
        UsageError: With the first rule that is broken.
    """
    _names(study)
    _references(study)
    _seeds(study)
    _edits(study)
    _sampling(study)
    _controls(study)


def refuse_repeats(name: str, values: Sequence[Any]) -> None:
    """Refuse a list that holds something twice.

    Raises:
        UsageError: Naming what is repeated.
    """
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise UsageError(f"{name} holds {', '.join(map(repr, repeated))} more than once: expected each once.")


def _names(study: Study) -> None:
    for name in study.arms:
        if not isinstance(name, str) or not _ARM_NAME.fullmatch(name):
            raise UsageError(
                f"Arm name {name!r} cannot be a folder: expected up to 64 letters, digits, '.', '_', '+' or "
                "'-', "
                "starting with a letter or digit."
            )
    folded = [name.lower() for name in study.arm_names]
    refuse_repeats("arms (upper and lower case are the same folder on some systems)", folded)
    baseline = study.arm("baseline")
    if baseline.acting or baseline.sampling or baseline.against:
        raise UsageError(
            "The arm 'baseline' is the arm without edits, sampled as the study says. Give this arm another "
            "name."
        )


def _references(study: Study) -> None:
    for name in study.arm_names:
        seen = [name]
        while (reference := study.arm(seen[-1]).against) is not None:
            if reference not in study.arm_names:
                raise unknown(f"arm that {seen[-1]!r} is compared with (against)", reference, study.arm_names)
            if reference in seen:
                circle = " -> ".join([*seen, reference])
                raise UsageError(
                    f"Arms are compared in a circle: {circle}. Let one of them name no arm in against."
                )
            seen.append(reference)
    for name in study.bases - {"baseline"}:
        if study.arm(name).against is not None:
            others = [arm for arm in study.arms if study.arm(arm).against == name]
            raise UsageError(
                f"Arm {name!r} is the unedited arm that {', '.join(others)} is compared with, and distances "
                "are measured from it, so it is compared with nothing itself. Leave its against out; to "
                "compare this setting with another one, add it a second time under another name."
            )


def _seeds(study: Study) -> None:
    for name in study.arm_names:
        shift = study.arm(name).seed_shift
        both = [seed for seed in study.seeds if seed + shift in study.seeds] if shift else []
        if both:
            raise UsageError(
                f"Arm {name!r} has seed_shift={shift}, and seed {both[0]} + {shift} is a seed of the study, "
                "so the same images would count as different ones. Use a shift beyond the study's seeds "
                f"({', '.join(map(str, study.seeds))})."
            )


def _edits(study: Study) -> None:
    seen: dict[Any, str] = {}
    for name in study.arms:
        edits, sampling = study.edits(name), study.sampling(name)
        key = (tuple(edit.hash for edit in edits), tuple(sampling.items()))
        if edits and key in seen:
            raise UsageError(
                f"The arms {seen[key]!r} and {name!r} are the same edit. Remove one or change it."
            )
        seen[key] = name
        for edit in edits:
            _edit_steps(name, edit, sampling["steps"])


def _edit_steps(name: str, edit: Edit, total: int) -> None:
    if isinstance(edit.steps, tuple) and all(isinstance(step, int) for step in edit.steps):
        late = [step for step in edit.steps if step >= total]
        if late:
            raise UsageError(
                f"Arm {name!r} edits step {late[0]}, but the study has {total} steps (0-{total - 1}). "
                "Change the edit's steps or the study's."
            )


def _sampling(study: Study) -> None:
    """An edited arm may differ from what it is compared with by its edits alone."""
    for name in study.arms:
        reference = study.reference(name)
        if not study.edits(name) or reference is None:
            continue
        differs = _differences(study, name, reference)
        if differs:
            raise UsageError(
                f"Arm {name!r} edits and is compared with {reference!r}, but is sampled differently: "
                f"{differs}. Their difference would mix both. Add an arm without edits that is sampled like "
                f"{name!r}, and name it in against."
            )


def _differences(study: Study, first: str, second: str) -> str:
    ours, theirs = study.sampling(first), study.sampling(second)
    return ", ".join(f"{k}={v!r} against {theirs[k]!r}" for k, v in ours.items() if v != theirs[k])


def _controls(study: Study) -> None:
    treated = {
        edit.hash: name
        for name in reversed(list(study.arms))
        for edit in study.edits(name)
        if edit.control_info is None
    }
    for name in study.arms:
        for edit in study.edits(name):
            info = edit.control_info
            if info is None or info.kind == "null":
                continue  # a mask of zeros is the same for any edit of the same place
            if info.of not in treated:
                raise UsageError(
                    f"Arm {name!r} is the {info.kind!r} control of edit {info.of}, which no arm of this "
                    "study holds. "
                    f"Add the treated arm, or drop {name!r}. Edits here: "
                    f"{', '.join(sorted(treated)) or '(none)'}."
                )
            if not _partners(study, name, info.of):
                other = treated[info.of]
                why = _differences(study, name, other) or "they have different baselines"
                raise UsageError(
                    f"Arm {name!r} is the {info.kind!r} control of arm {other!r}, but is sampled "
                    f"differently: {why}. Give both the same sampling and the same against."
                )


def _partners(study: Study, control: str, of: str) -> list[str]:
    """Arms that hold the treated edit and are sampled like its control."""
    return [
        name
        for name in study.arms
        if of in [edit.hash for edit in study.edits(name)]
        and study.sampling(name) == study.sampling(control)
        and study.base(name) == study.base(control)
    ]
