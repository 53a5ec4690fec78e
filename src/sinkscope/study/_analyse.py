"""The third stage: which arms are compared with which, and what came out.

Contrasts: every arm against the baseline, or the arm it names in `against`; and every edit against each of
its controls, found through the edit's hash that a control carries. A null control is compared with the
baseline only: it says how far the masked path itself drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from sinkscope import stats
from sinkscope.errors import StoreError
from sinkscope.stats import Contrast, DoubleContrast
from sinkscope.study import _files, _tables
from sinkscope.study._matches import save_matches
from sinkscope.study._plan import make_plan
from sinkscope.study._progress import Meter
from sinkscope.study._record import budget, recorded_prompts
from sinkscope.study._store import Store
from sinkscope.study._study import Study
from sinkscope.study._validate import WITHOUT_EFFECT

Pairs = frozenset[tuple[str, str]]

BOOTSTRAP_SEED = 0
TABLES = 4
"""Raised when tables get other columns, so that a finished run is analysed again."""
NO_EFFECTS = "metric task contrast kind arm reference n_prompts n_units effect ci_low ci_high verdict note"
"""Columns of the table of effects where a study declares no contrast."""


def contrasts(study: Study) -> list[Contrast]:
    """The comparisons a study declares, in the order of its arms."""
    references = {name: study.reference(name) for name in study.arm_names}
    found = [
        Contrast(name, other, "arm-baseline" if other in study.bases else "edit-control")
        for name, other in references.items()
        if other is not None
    ]
    for treated in study.arm_names:
        for name in controls_of(study, treated):
            if references[treated] != name:
                found.append(Contrast(treated, name, "edit-control"))
    return found


def double_contrasts(study: Study) -> list[DoubleContrast]:
    """The same edits under different settings: does a setting change what they do?

    For each pair of arms whose edits are the same and that are compared with different unedited arms (another
    guidance, say), the later arm's effect minus the earlier one's.
    """
    found = []
    edited = [name for name in study.arm_names if study.edits(name)]
    for index, first in enumerate(edited):
        for second in edited[index + 1 :]:
            bases = study.base(first), study.base(second)
            same = [[edit.hash for edit in study.edits(name)] for name in (first, second)]
            if bases[0] != bases[1] and same[0] == same[1]:
                found.append(DoubleContrast(second, bases[1], first, bases[0]))
    return found


def with_effects(study: Study) -> list[str]:
    """The metrics of a study whose differences mean something."""
    return [name for name in study.metrics if name not in WITHOUT_EFFECT]


def controls_of(study: Study, treated: str) -> list[str]:
    """Arms that control all edits of `treated` and are sampled like it, except null controls."""
    hashes = [edit.hash for edit in study.edits(treated)]
    found = []
    for name in study.arm_names:
        infos = [edit.control_info for edit in study.edits(name)]
        pairs = [info.of for info in infos if info is not None and info.kind != "null"]
        alike = study.sampling(name) == study.sampling(treated) and study.base(name) == study.base(treated)
        if hashes and pairs == hashes and alike:
            found.append(name)
    return found


def ladders(study: Study) -> list[tuple[dict[str, float], dict[str, float] | None]]:
    """Arms that differ in their budget alone, as arm -> budget, each with a matching ladder of controls or
    None."""
    groups: dict[str, dict[str, float]] = {}
    for name in study.arm_names:
        edits = study.edits(name)
        if len(edits) == 1 and edits[0].control_info is None and (size := _size(edits[0])) is not None:
            groups.setdefault(_without_budget(edits[0]) + study.base(name), {})[name] = size
    found: list[tuple[dict[str, float], dict[str, float] | None]] = []
    for arms in groups.values():
        if len(set(arms.values())) >= 2:
            found.append((arms, _control_ladder(study, arms)))
    return found


def _size(edit: Any) -> float | None:
    sizes = [value for value in budget(edit).values() if value is not None]
    return float(sizes[0]) if sizes else None


def _without_budget(edit: Any) -> str:
    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            # The kind of budget stays, its size goes.
            kinds = ("keys_per_head", "shared_keys")
            return {
                name: (item is not None if name in kinds else strip(item)) for name, item in value.items()
            }
        return value

    return _files.canonical(strip(edit.to_dict()))


def _control_ladder(study: Study, arms: Mapping[str, float]) -> dict[str, float] | None:
    by_kind: dict[tuple[str, int | None], dict[str, float]] = {}
    for treated, size in arms.items():
        for name in controls_of(study, treated):
            info = study.edits(name)[0].control_info
            if info is not None:
                by_kind.setdefault((info.kind, info.seed), {})[name] = size
    complete = [ladder for ladder in by_kind.values() if len(ladder) == len(arms)]
    return complete[0] if complete else None


def analyse(store: Store, study: Study, *, show: bool = True) -> None:
    """Write `effects.parquet`, `double_effects.parquet`, `dose.parquet`, `ratios.parquet`, `boundary.parquet`
    and `leave_one_out.parquet` from `scores.parquet`, and `matches.parquet` from `receipts.parquet`, unless
    they already follow from it. Says which contrasts were refused, unless `show` is false.

    Raises:
        StoreError: The scores are missing or damaged.
        SinkscopeError: The scores cannot be analysed; they are kept.
    """
    same = same_images(store, study)
    key = _key(store, study, same)
    scores = None
    for name, make in MAKERS.items():
        if not store.table_is_current(name, key):
            scores = store.table("scores") if scores is None else scores
            table = make(scores, study, same)
            store.save_table(name, table, key)
            if name == "effects":
                _say_refused(table, show=show)
    save_matches(store, study, contrasts(study))


def _say_refused(effects: pd.DataFrame, *, show: bool) -> None:
    whole = effects[effects["task"] == "all"]
    for metric, rows in whole[whole["note"].str.contains("refused: ")].groupby("metric", sort=False):
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        Meter("analyse", 0, show=show).note(
            f"note: {metric}: no effect of {rows['contrast'].iloc[0]}{more}: {rows['note'].iloc[0]} (column "
            "note of effects.parquet)"
        )


def same_images(store: Store, study: Study) -> Pairs:
    """Contrasts whose arms made the very same image of every unit: their scores are equal by no chance."""
    record = store.record()
    if record is None:
        return frozenset()
    plan = make_plan(study, recorded_prompts(record), record["resolved"]["batch"])
    try:
        digests = store.image_digests(plan)
    except StoreError:  # a run that was cleaned of its shards keeps its scores: nothing is known of images
        return frozenset()
    units = [unit.id for unit in plan.units]
    return frozenset(
        (pair.arm, pair.reference)
        for pair in contrasts(study)
        if all(digests[pair.arm, unit] == digests[pair.reference, unit] for unit in units)
    )


def _key(store: Store, study: Study, same: Pairs) -> str:
    scores = _files.digest(_files.read_bytes(store.folder / "scores.parquet"))
    declared = [[entry.arm, entry.reference, entry.kind] for entry in contrasts(study)]
    settings = [dict(study.margins), study.level, study.draws, BOOTSTRAP_SEED, list(study.metrics), TABLES]
    settings += [sorted(map(list, same)), [entry.name for entry in double_contrasts(study)]]
    settings += [study.interval] if study.interval != "auto" else []
    return _files.digest(_files.canonical([scores, declared, settings, _stats_version()]).encode())


def _stats_version() -> str:
    from sinkscope._version import __version__

    return __version__


def _settings(study: Study) -> dict[str, Any]:
    return {"level": study.level, "draws": study.draws, "seed": BOOTSTRAP_SEED}


def _effects(scores: pd.DataFrame, study: Study, same: Pairs) -> pd.DataFrame:
    settings = _settings(study)
    declared, metrics = contrasts(study), with_effects(study)
    if not declared or not metrics or scores.empty:
        return pd.DataFrame(columns=NO_EFFECTS.split(), dtype="str")
    return stats.effects(
        scores,
        contrasts=declared,
        metrics=metrics,
        margins=dict(study.margins),
        seed_arms=_tables.seed_arms(study),
        identical=same,
        interval=study.interval,  # type: ignore[arg-type]  # the study has checked its name
        **settings,
    )


def _dose(scores: pd.DataFrame, study: Study, same: Pairs) -> pd.DataFrame:
    settings = _settings(study)
    frames = []
    metrics = with_effects(study)
    for arms, control in ladders(study) if len(scores) and metrics else ():
        frame = stats.dose_response(
            scores,
            arms,
            control=control,
            metrics=metrics,
            baseline=study.base(next(iter(arms))),
            **settings,
        )
        frames.append(frame.assign(arms=", ".join(arms), controls=", ".join(control or {})))
    return (
        pd.concat(frames, ignore_index=True)
        if frames
        else pd.DataFrame({"metric": [], "series": []}, dtype="str")
    )


def _ratios(scores: pd.DataFrame, study: Study, same: Pairs) -> pd.DataFrame:
    return _tables.ratios(scores, study, with_effects(study), contrasts(study), _settings(study))


def _boundaries(scores: pd.DataFrame, study: Study, same: Pairs) -> pd.DataFrame:
    return _tables.boundaries(scores, study, ladders(study), _settings(study))


def _leave_one_out(scores: pd.DataFrame, study: Study, same: Pairs) -> pd.DataFrame:
    return _tables.leave_one_out(scores, study, with_effects(study), contrasts(study), same, _settings(study))


def _double(scores: pd.DataFrame, study: Study, same: Pairs) -> pd.DataFrame:
    found = double_contrasts(study)
    return _tables.double_effects(scores, study, with_effects(study), found, _settings(study))


MAKERS: dict[str, Callable[[pd.DataFrame, Study, Pairs], pd.DataFrame]] = {
    "effects": _effects,
    "double_effects": _double,
    "dose": _dose,
    "ratios": _ratios,
    "boundary": _boundaries,
    "leave_one_out": _leave_one_out,
}
"""File name -> how it is made from the scores, the study and the contrasts of equal images."""
