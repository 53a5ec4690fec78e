"""`study.yaml`: the study as asked for and as resolved, and everything needed to say whether two runs are the
same.

The fields of the study are at the top level, as in a study file (so `Study.from_yaml` reads both). Beside
them: `format`, `hash`, `resolved` (batch, device, threads, dtype, pipeline class, parameters, observed layers
and units), `arm_info` (role, treated arm, kind of control, budget, words), `units`, `prompt_records`,
`weights` (SHA-256 per module), `versions`, `noise`, once scored `metric_identity`, and where a run was
continued with other packages `continued_with`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sinkscope.errors import StoreError
from sinkscope.prompts import PromptRecord
from sinkscope.study._files import canonical
from sinkscope.study._study import ANALYSIS_FIELDS, BASELINE, Study

if TYPE_CHECKING:
    import torch

PACKAGES = ("sinkscope", "torch", "diffusers", "transformers", "numpy", "pandas", "scipy", "pillow")
FULL_HASH_BYTES = 400 * 2**20
NOISE = "per unit: torch CPU generator, seed = first 63 bits of SHA-256('sinkscope/noise/<seed>/<prompt id>')"
PRESCRIBED = "per unit: torch CPU generator, seed = {base} + number of the prompt"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    if found["sinkscope"].startswith("not"):
        from sinkscope._version import __version__

        found["sinkscope"] = __version__
    return found


def changed_versions(record: Mapping[str, Any]) -> dict[str, str]:
    """Packages whose version differs from the one a run was started with, as "then -> now"."""
    there = record["versions"]
    return {name: f"{there.get(name)} -> {now}" for name, now in versions().items() if there.get(name) != now}


def modules(pipe: Any) -> dict[str, torch.nn.Module]:
    """The networks of a pipeline by component name."""
    import torch

    parts = pipe.components if hasattr(pipe, "components") else {"model": pipe}
    return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}


def parameters(pipe: Any) -> int:
    """Number of parameters of all networks of a pipeline."""
    return sum(tensor.numel() for part in modules(pipe).values() for tensor in part.parameters())


def weight_hashes(pipe: Any) -> dict[str, str]:
    """SHA-256 of each network's weights, by component name.

    Networks above 400 MiB are hashed by the first and last 512 numbers of each tensor; the value then starts
    with "sampled:".
    """
    return {name: _hash_module(part) for name, part in modules(pipe).items()}


def _hash_module(module: torch.nn.Module) -> str:
    state = sorted(module.state_dict().items())
    size = sum(tensor.numel() * tensor.element_size() for _, tensor in state)
    sampled = size > FULL_HASH_BYTES
    found = hashlib.sha256()
    for name, tensor in state:
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        for part in _parts(tensor, sampled):
            found.update(part)
    return f"sampled:{found.hexdigest()}" if sampled else found.hexdigest()


def _parts(tensor: torch.Tensor, sampled: bool) -> Iterator[bytes]:
    import torch

    flat = tensor.detach().reshape(-1)
    for piece in (flat[:512], flat[-512:]) if sampled and len(flat) > 1024 else (flat,):
        yield piece.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def arm_info(study: Study) -> list[dict[str, Any]]:
    """What each arm is: role, treated arm, kind of control, budget, one line of words."""
    treated = {
        edit.hash: arm for arm in study.arm_names for edit in study.edits(arm) if edit.control_info is None
    }
    return [{**_arm_info(arm, study, treated), **_sampled(arm, study)} for arm in study.arm_names]


def _sampled(arm: str, study: Study) -> dict[str, Any]:
    """Sampling settings an arm has of its own, and what it is compared with if not the baseline."""
    found: dict[str, Any] = {}
    if study.arm(arm).sampling:
        found["sampling"] = study.arm(arm).sampling
    if study.base(arm) != BASELINE:
        found["base"] = study.base(arm)
    if study.reference(arm) not in (None, BASELINE):
        found["against"] = study.reference(arm)
    return found


def _arm_info(arm: str, study: Study, treated: Mapping[str, str]) -> dict[str, Any]:
    edits = study.edits(arm)
    if not edits:
        sampling = study.arm(arm).sampling
        role = BASELINE if arm == BASELINE else "sampling" if sampling else "repeat"
        words = ", ".join(f"{name} {value}" for name, value in sampling.items())
        text = "no edit, through the same handler path"
        return {"name": arm, "role": role, "text": f"{text}; {words}" if words else text}
    first = edits[0]
    info = first.control_info
    role = "edit" if info is None else "null" if info.kind == "null" else "control"
    data: dict[str, Any] = {"name": arm, "role": role, "edits": [edit.hash for edit in edits]}
    data |= {name: value for name, value in budget(first).items() if value is not None}
    if info is not None:
        data |= {
            "of": treated.get(info.of),
            "control": info.kind,
            "matched": list(info.matched),
            "text": info.text,
        }
    return data


def budget(edit: Any) -> dict[str, int | None]:
    """The budgets of an edit's selector (looking through `Frozen`)."""
    selector = getattr(edit.select, "select", edit.select)
    return {name: getattr(selector, name, None) for name in ("keys_per_head", "shared_keys")}


def new_record(
    study: Study, prompts: Sequence[PromptRecord], resolved: Mapping[str, Any], weights: Mapping[str, str]
) -> dict[str, Any]:
    """The content of `study.yaml` for a new run."""
    return {
        **study.to_dict(),
        "format": 1,
        "hash": study.hash,
        "resolved": dict(resolved),
        "arm_info": arm_info(study),
        "units": len(prompts) * len(study.seeds),
        "weights": dict(weights),
        "versions": versions(),
        "noise": NOISE if study.noise_base is None else PRESCRIBED.format(base=study.noise_base),
        "prompt_records": prompt_records(prompts),
    }


def prompt_records(prompts: Sequence[PromptRecord]) -> list[dict[str, Any]]:
    """Prompts as plain data."""
    return [{"id": p.id, "text": p.text, "task": p.task, "metadata": _plain(p.metadata)} for p in prompts]


def _plain(value: Any) -> Any:
    """Metadata as YAML can hold it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def recorded_prompts(record: Mapping[str, Any]) -> tuple[PromptRecord, ...]:
    """The prompts that a run was started with."""
    return tuple(PromptRecord(**entry) for entry in record["prompt_records"])


def recorded_study(record: Mapping[str, Any]) -> Study:
    """The study that a run was started with."""
    names = Study.__dataclass_fields__
    return Study.from_dict({name: value for name, value in record.items() if name in names})


def refuse_other_study(
    folder: object, record: Mapping[str, Any], study: Study, prompts: Sequence[PromptRecord]
) -> None:
    """Refuse a folder that holds another study.

    Raises:
        StoreError: Naming the settings that differ, what the folder has and what was asked for.
    """
    asked, there = study.to_dict(), dict(record)
    differences = []
    for name in Study.__dataclass_fields__:
        if name in (*ANALYSIS_FIELDS, "arms", "prompts", "batch"):
            continue
        value = asked.get(name)
        if canonical(there.get(name)) != canonical(value):
            differences.append(f"{name}: the folder has {there.get(name)!r}, got {value!r}")
    if study.batch is not None and study.batch != record["resolved"]["batch"]:
        differences.append(f"batch: the folder has {record['resolved']['batch']}, got {study.batch}")
    differences += _arm_differences(there["arms"], asked["arms"])
    differences += _prompt_differences(record["prompt_records"], prompt_records(prompts))
    if differences:
        raise StoreError(
            f"{folder} belongs to another study (hash {record['hash']}, asked for {study.hash}). What "
            "differs: "
            + "; ".join(differences)
            + ". Choose another folder, or restore the settings to continue this one."
        )


def _arm_differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys((*there, *asked)))
    changed = []
    for name in names:
        if name not in asked:
            changed.append(f"arm {name!r} is missing now")
        elif name not in there:
            changed.append(f"arm {name!r} is new")
        elif canonical(there[name]) != canonical(asked[name]):
            changed.append(f"arm {name!r}: the folder has {there[name]!r}, got {asked[name]!r}")
    if not changed and list(there) != list(asked):
        changed.append(f"order of arms: the folder has {list(there)}, got {list(asked)}")
    return changed


def _prompt_differences(there: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]) -> list[str]:
    if canonical(there) == canonical(asked):
        return []
    if len(there) != len(asked):
        return [f"prompts: the folder has {len(there)}, got {len(asked)}"]
    index = next(i for i, (a, b) in enumerate(zip(there, asked, strict=True)) if canonical(a) != canonical(b))
    return [f"prompt {index}: the folder has {dict(there[index])!r}, got {dict(asked[index])!r}"]


def refuse_other_model(
    folder: object, record: Mapping[str, Any], weights: Mapping[str, str], device: str
) -> None:
    """Refuse to continue a run with other weights or on another kind of device.

    Raises:
        StoreError: Naming the changed networks or the device.
    """
    there = record["weights"]
    changed = [name for name in dict.fromkeys((*there, *weights)) if there.get(name) != weights.get(name)]
    if changed:
        raise StoreError(
            f"The weights of {', '.join(changed)} are not those {folder} was started with. Restore the model "
            f"{record['model']!r}, or choose another folder."
        )
    if record["resolved"]["device"] != device:
        raise StoreError(
            f"{folder} was started on {record['resolved']['device']!r} and cannot continue on {device!r}: "
            "images of one "
            f"study must come from one kind of device. Use device={record['resolved']['device']!r}."
        )
