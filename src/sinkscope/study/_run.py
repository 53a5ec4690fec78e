"""Running a study, and reading what a run left behind.

`run` is also how a run is resumed, repaired and completed: it looks at the folder, does what is missing, and
leaves the rest alone. A finished run that is run again loads no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sinkscope.errors import StoreError, unknown
from sinkscope.study import _record
from sinkscope.study._analyse import analyse
from sinkscope.study._by_unit import ArraysByUnit, Images, Outputs, Videos
from sinkscope.study._plan import Plan, make_plan, resolve_prompts
from sinkscope.study._sinks import SinkTables
from sinkscope.study._store import RECORD, Store
from sinkscope.study._study import ANALYSIS_FIELDS, Study


class Run(SinkTables):
    """A run folder, read."""

    def __init__(self, folder: str | Path) -> None:
        self._store = Store(Path(folder))

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open an existing run folder.

        Raises:
            StoreError: It is not one.
        """
        opened = cls(folder)
        if not opened._store.record_path.is_file():
            raise StoreError(
                f"{folder} is not a run folder: it has no {RECORD}. Give the folder that a run was written "
                "to."
            )
        return opened

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self._store.folder

    @property
    def record(self) -> dict[str, Any]:
        """The content of `study.yaml`."""
        record = self._store.record()
        if record is None:
            raise StoreError(f"{self._store.record_path} is missing.")
        return record

    @cached_property
    def plan(self) -> Plan:
        """Units, arms and batches of the run."""
        record = self.record
        return make_plan(self.study, _record.recorded_prompts(record), record["resolved"]["batch"])

    @property
    def study(self) -> Study:
        """The study of the run."""
        return _record.recorded_study(self.record)

    def scores(self) -> pd.DataFrame:
        """Long table: unit prompt_id prompt task seed arm metric value status."""
        return self._store.table("scores")

    def effects(self) -> pd.DataFrame:
        """One row per metric, task and contrast, as `stats.effects` describes it."""
        return self._store.table("effects")

    def dose(self) -> pd.DataFrame:
        """Slopes over budgets, where arms differ in their budget alone (`stats.dose_response`)."""
        return self._store.table("dose")

    def double_effects(self) -> pd.DataFrame:
        """What other sampling settings change about the same edits (`stats.double_effects`)."""
        return self._store.table("double_effects")

    def ratios(self) -> pd.DataFrame:
        """How many times as far from the baseline's image as its control an edit lies (`stats.ratios`)."""
        return self._store.table("ratios")

    def boundary(self) -> pd.DataFrame:
        """At which budget an edit leaves the margin (`stats.dose_boundary`)."""
        return self._store.table("boundary")

    def leave_one_out(self) -> pd.DataFrame:
        """The effects without one task at a time (`stats.leave_one_task_out`)."""
        return self._store.table("leave_one_out")

    def distances(self) -> pd.DataFrame:
        """Distances between the images of an arm and of its reference as sets (`score(["kid", ...])`)."""
        return self._store.table("distances")

    def receipts(self) -> pd.DataFrame:
        """What every edit did in every call: `Receipt.table` with unit and arm."""
        return self._store.table("receipts")

    def matches(self) -> pd.DataFrame:
        """How closely each control matched: keys, mass, segments, persistence (`models.match_table`)."""
        return self._store.table("matches")

    def replacements(self) -> pd.DataFrame:
        """The keys that took the mass over (`Receipt.replacements`), with unit and arm; may be empty."""
        return self._store.table("replacements")

    def traces(self) -> pd.DataFrame:
        """The sinks that were seen: `Observation.sinks` with unit and arm."""
        return self._store.table("traces")

    def summary(self) -> pd.DataFrame:
        """Attention statistics per step, layer and branch: `Observation.summary` with unit and arm."""
        return self._store.table("summary")

    def images(self, arm: str) -> Images:
        """The images of an arm by unit id.

        Raises:
            UsageError: There is no such arm, or the model gives videos or arrays.
        """
        return self._outputs(Images, arm)

    def videos(self, arm: str) -> Videos:
        """The videos of an arm by unit id, where the model makes videos: uint8 `[frame, height, width, 3]`.

        Raises:
            UsageError: There is no such arm, or the model gives images or arrays.
        """
        return self._outputs(Videos, arm)

    def arrays(self, arm: str) -> ArraysByUnit:
        """The arrays of an arm by unit id, where the model reads instead of painting: name -> NumPy array.

        Raises:
            UsageError: There is no such arm, or the model paints.
        """
        return self._outputs(ArraysByUnit, arm)

    def _outputs(self, kind: type[Outputs], arm: str) -> Any:
        if arm not in self.plan.arms:
            raise unknown("arm", arm, self.plan.arms)
        return kind(self._store, arm, [unit.id for unit in self.plan.units])

    def progress(self) -> tuple[int, int]:
        """How many images are finished, and how many the plan has."""
        marked = (task for task in self.plan.tasks() if self._store.marker(task) is not None)
        return sum(len(task.batch.units) for task in marked), self.plan.images

    def score(
        self,
        metrics: Sequence[str] | None = None,
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        progress: bool = True,
        device: str | None = None,
    ) -> pd.DataFrame:
        """Score the images again, or with further metrics, and analyse.

        Args:
            metrics: Names to add to the run's metrics, or aliases such as "clip"; also distances between sets
                (`metrics.distances.DISTANCES`), which `distances` gives. None: score with the run's own.
            options: Metric -> its options, over those of the run.
            progress: Show progress.
            device: Where metrics run, for example "cuda". None: a GPU where there is one.

        Raises:
            UsageError: There is no such metric.
            MissingWeightsError: Weights are not here. The other metrics were scored and are kept, and the
                message says which files are missing and how to get them.
            StoreError: The run is not finished, or an image is damaged.
        """
        from sinkscope.metrics import canonical
        from sinkscope.metrics.distances import DISTANCES
        from sinkscope.study._scorer import jsonable

        record = self.record
        asked = list(dict.fromkeys(map(canonical, metrics or ())))
        known = self.study
        sets = list(dict.fromkeys((*known.distances, *(name for name in asked if name in DISTANCES))))
        names = list(dict.fromkeys((*record["metrics"], *(name for name in asked if name not in sets))))
        merged = {
            **record.get("metric_options", {}),
            **{canonical(name): jsonable(value) for name, value in (options or {}).items()},
        }
        if stray := [name for name in merged if name not in (*names, *sets)]:
            raise unknown(
                "metric in the options (expected one of the metrics scored)", stray[0], [*names, *sets]
            )
        with self._store.lock():
            changed = {**record, "metrics": names, "metric_options": merged}
            if sets:
                changed["distances"] = sets
            _finish(self._store, changed, self.plan, show=progress, device=device)
        return self.scores()

    def analyse(self) -> pd.DataFrame:
        """Write the effects anew where the scores or the settings changed, and return them."""
        with self._store.lock():
            analyse(self._store, self.study)
        return self.effects()

    def report(self) -> Path:
        """Write `report.html` and return its path."""
        from sinkscope import report

        return report.build(self.folder)


def run(
    study: Study,
    out: str | Path,
    *,
    progress: bool = True,
    device: str | None = None,
    pipe: Any = None,
    workers: int | None = None,
) -> Run:
    """Generate, score and analyse a study; the same call resumes one that was cut off.

    Example:
        >>> result = run(Study(arms=arms, n_prompts=12), "runs/first")    # doctest: +SKIP
        >>> result.effects()                                             # doctest: +SKIP

    Args:
        study: What to run.
        out: The run folder; new, empty, or of this very study.
        progress: Show a bar on a terminal, or one line now and then in a log (both on standard error).
        device: For example "cpu" or "cuda", or several such as "cuda:0,cuda:1", a worker on each. None: the
            device the run was started on; for a new run a GPU where there is one.
        pipe: An already loaded pipeline to use instead of loading `study.model`; then in this process alone.
        workers: How many processes generate, each with a model of its own; no bit depends on it, given the
            number of threads that `study.yaml` records. None: one; on a CPU one per core where the model is
            small and there is enough to do.

    Raises:
        UsageError: The study cannot be run as it stands, or not with these workers and devices.
        StoreError: The folder belongs to another study, is being written by another process, or the disk is
            full.
        MissingWeightsError: The weights of the model or of a metric are not here.
    """
    from sinkscope.study import _team
    from sinkscope.study._complete import complete
    from sinkscope.study._distances import check as check_distances
    from sinkscope.study._score import check_metrics, check_sizes

    _team.asked(workers, device or "cpu", pipe)  # which device it is may be known by the folder alone
    prompts = resolve_prompts(study)
    check_metrics(study.metrics, prompts, options=study.metric_options, model=study.model)
    check_distances(study)
    check_sizes(study)
    store = Store(Path(out))
    with store.lock():
        record = store.record()
        if record is not None:
            _record.refuse_other_study(store.folder, record, study, prompts)
            plain = study.to_dict()
            record = {**record, **{name: plain[name] for name in ANALYSIS_FIELDS if name in plain}}
            for name in set(ANALYSIS_FIELDS) - set(plain):
                record.pop(name, None)
        record = complete(
            store, study, prompts, record, progress=progress, device=device, pipe=pipe, workers=workers
        )
        plan = make_plan(study, prompts, record["resolved"]["batch"])
        store.merge(plan)
        # Metrics run in this process, on one device.
        _finish(store, record, plan, show=progress, device=device and device.partition(",")[0])
    return Run(store.folder)


def _finish(
    store: Store, record: Mapping[str, Any], plan: Plan, *, show: bool, device: str | None = None
) -> None:
    """Score and analyse; the record keeps the metrics that could be computed and what each of them was.

    Raises:
        SinkscopeError: Metrics could not be computed; everything else is done and kept.
    """
    from sinkscope.study._complete import default_device
    from sinkscope.study._distances import measure
    from sinkscope.study._score import left_out_error, score
    from sinkscope.study._scorer import jsonable
    from sinkscope.study._sharing import outcome

    if "shared" in record:
        record = {**record, "shared": outcome(store, plan, record)}
    names, options = list(record["metrics"]), record.get("metric_options", {})
    sets = list(record.get("distances", ()))
    everything = _record.recorded_study(record)
    device = device or default_device()
    no_distance = (
        measure(store, everything, plan, sets, options=options, device=device, show=show) if sets else {}
    )
    scored = score(
        store,
        plan,
        names,
        options={name: value for name, value in options.items() if name not in sets},
        model=record["model"],
        show=show,
        bases={arm: everything.base(arm) for arm in everything.arm_names},
        device=device,
        recorded=record.get("metric_identity"),
    )
    before = store.record() or record
    kept = [name for name in names if name in scored.identities or name in before["metrics"]]
    # What could not be computed keeps the options of its earlier scores.
    asked = {**options, **{name: before.get("metric_options", {}).get(name) for name in scored.left_out}}
    record = {
        **record,
        "metrics": kept,
        "metric_options": {name: value for name, value in asked.items() if name in (*kept, *sets) and value},
        "metric_identity": {name: jsonable(identity) for name, identity in scored.identities.items()},
    }
    if sets:
        there = before.get("distances", ())
        record["distances"] = [name for name in sets if name not in no_distance or name in there]
    if record != store.record():
        store.write_record(record)
    analyse(store, _record.recorded_study(record), show=show)
    if left_out := {**scored.left_out, **no_distance}:
        raise left_out_error(left_out, len(names) + len(sets))
