"""What a run found, one row per cell: means of arms, effects, ratios, and what its attention tables say.

Numbers are averaged within a prompt first and intervals are over prompts, as everywhere in `sinkscope.stats`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from sinkscope import stats

if TYPE_CHECKING:
    from sinkscope.study import Run, Study

SEED = 0
NAN = float("nan")
CURVES = ("mean_top1", "entropy", "top5_mass", "max_activation")
"""Columns of `summary` that are followed over steps."""


def cell(
    metric: str,
    quantity: str,
    *,
    arm: str | None = None,
    reference: str | None = None,
    at: Mapping[str, Any] | None = None,
    task: str = "all",
    ours: float = NAN,
    low: float = NAN,
    high: float = NAN,
    n: int | None = None,
    verdict: str = "",
    note: str = "",
) -> dict[str, Any]:
    """One row. `at` is written as text so that the table can be saved anywhere."""
    return {
        "task": task,
        "metric": metric,
        "quantity": quantity,
        "arm": arm,
        "reference": reference,
        "at": place(at or {}),
        "ours": ours,
        "ours_low": low,
        "ours_high": high,
        "n": n,
        "verdict": verdict,
        "note": note,
    }


def place(at: Mapping[str, Any]) -> str:
    """Where a number belongs, as text: "layer 12, start"."""
    words = [str(value) if name in ("point",) else f"{name} {value}" for name, value in at.items()]
    return ", ".join(words)


def score_cells(run: Run, *, by_task: bool) -> Iterator[dict[str, Any]]:
    """Means of arms, effects and ratios of distances."""
    study, scores, effects = run.study, run.scores(), run.effects()
    yield from _means(scores, study)
    shown = effects if by_task else effects[effects["task"] == "all"]
    for row in shown.to_dict("records"):
        yield cell(
            row["metric"],
            "effect",
            arm=row["arm"],
            reference=row["reference"],
            task=row["task"],
            ours=row["effect"],
            low=row["ci_low"],
            high=row["ci_high"],
            n=row["n_prompts"],
            verdict=row["verdict"],
            note=row["note"],
        )
    yield from _ratios(scores, study, by_task=by_task)
    if "family_size" in effects and len(effects):
        yield cell("n_tests", "count", ours=float(effects["family_size"].max()))
    yield cell("n_prompts", "count", ours=float(len({unit.prompt.id for unit in run.plan.units})))


def _means(scores: pd.DataFrame, study: Study) -> Iterator[dict[str, Any]]:
    good = scores[scores["status"] == "ok"]
    distances = distance_metrics(study)
    for metric in study.metrics:
        for arm in study.arm_names:
            if metric in distances and arm in study.bases:
                continue  # the distance of an image to itself
            mine = good[(good["metric"] == metric) & (good["arm"] == arm)]
            lost = int(((scores["metric"] == metric) & (scores["arm"] == arm)).sum()) - len(mine)
            note = f"{lost} images without a score are left out" if lost else ""
            yield _mean(mine, "value", study, metric, "mean", arm=arm, note=note)


def _mean(
    rows: pd.DataFrame, column: str, study: Study, metric: str, quantity: str, **about: Any
) -> dict[str, Any]:
    """The mean over prompts of a column, with its interval; `rows` has `prompt_id`."""
    values = rows.groupby("prompt_id")[column].mean().dropna()
    if len(values) == 0:
        return cell(metric, quantity, **{**about, "n": 0, "note": "nothing was recorded"})
    found = cell(metric, quantity, ours=float(values.mean()), n=len(values), **about)
    if len(values) < 2:
        return {**found, "note": _join(found["note"], "one prompt: no interval")}
    # The key of the effects: a mean distance and its difference to the baseline's 0 get one interval.
    rng = stats.keyed_generator(SEED, "bootstrap", *map(str, values.index))
    (ends,) = stats.mean_interval(values.to_numpy(float), levels=(study.level,), draws=study.draws, rng=rng)
    return {**found, "ours_low": float(ends.low), "ours_high": float(ends.high)}


def _ratios(scores: pd.DataFrame, study: Study, *, by_task: bool) -> Iterator[dict[str, Any]]:
    """How many times as far from the baseline's image an edit lies as its control."""
    from sinkscope.study._analyse import contrasts

    asked = [entry for entry in contrasts(study) if entry.kind == "edit-control"]
    for metric in distance_metrics(study):
        zero = perfect(scores, metric, study)
        if zero is None or not asked:
            continue
        found = stats.ratios(
            scores,
            contrasts=asked,
            metrics=[metric],
            zeros={metric: zero},
            level=study.level,
            draws=study.draws,
            seed=SEED,
        )
        for row in found.to_dict("records"):
            if row["task"] == "all" or by_task:
                yield cell(
                    metric,
                    "ratio",
                    arm=row["arm"],
                    reference=row["reference"],
                    task=row["task"],
                    ours=row["ratio"],
                    low=row["ci_low"],
                    high=row["ci_high"],
                    n=row["n_prompts"],
                    note=row["note"],
                )


def perfect(scores: pd.DataFrame, metric: str, study: Study) -> float | None:
    """The score of an image beside itself, or None where the unedited arms do not show one."""
    mine = scores[(scores["metric"] == metric) & scores["arm"].isin(study.bases) & (scores["status"] == "ok")]
    values = mine["value"].unique()
    return float(values[0]) if len(values) == 1 else None


def distance_metrics(study: Study) -> list[str]:
    """Metrics of the study that compare an image with the unedited one."""
    from sinkscope import metrics

    options = study.metric_options
    return [name for name in study.metrics if "reference" in metrics.get(name, **options.get(name, {})).needs]


def attention_cells(run: Run, *, curves: bool, by_kind: bool) -> Iterator[dict[str, Any]]:
    """Removed mass per arm, what the baseline's sinks are, and statistics over steps.

    Args:
        run: The run.
        curves: Also follow statistics over steps.
        by_kind: Tell self- and cross-attention apart (UNets).
    """
    prompt_of = {unit.id: unit.prompt.id for unit in run.plan.units}
    yield from _removed(_with_prompt(run.receipts(), prompt_of), run.study)
    traces = _with_prompt(run.traces(), prompt_of)
    if by_kind and "site" in traces:
        cross = traces["site"].str.contains("attn2", regex=False)
        yield from _shares(traces[~cross], run.study, {"kind": "self"})
        yield from _shares(traces[cross], run.study, {"kind": "cross"})
    else:
        yield from _shares(traces, run.study, {})
    if curves:
        yield from _curves(_with_prompt(run.summary(), prompt_of), run.study)


def _with_prompt(table: pd.DataFrame, prompt_of: Mapping[str, str]) -> pd.DataFrame:
    return table.assign(prompt_id=table["unit"].map(prompt_of)) if "unit" in table else table


def _removed(receipts: pd.DataFrame, study: Study) -> Iterator[dict[str, Any]]:
    """Mass on the edited keys before and after, mean over calls and heads, and how many times less."""
    if not {"mass_before", "mass_after", "prompt_id"} <= set(receipts):
        return
    for arm in study.arm_names:
        mine = receipts[receipts["arm"] == arm]
        if mine.empty or mine["keys"].max() == 0:
            continue
        before = _mean(mine, "mass_before", study, "mass_before", "mean", arm=arm)
        after = _mean(mine, "mass_after", study, "mass_after", "mean", arm=arm)
        yield from (before, after)
        about: dict[str, Any] = {"arm": arm, "n": before["n"]}
        if after["ours"] > 0:
            yield cell("mass", "reduction", ours=before["ours"] / after["ours"], **about)
        else:
            note = "the mass after the edit is exactly 0: no finite factor"
            yield cell("mass", "reduction", note=note, **about)


def _shares(traces: pd.DataFrame, study: Study, at: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What share of the unedited model's strongest keys (one per head) is text, begin mark, or key 0."""
    if not {"rank", "segment", "prompt_id"} <= set(traces):
        return
    top = traces[(traces["arm"] == "baseline") & (traces["rank"] == 0)]
    if top.empty:
        return
    role = top["role"] if "role" in top else pd.Series(None, index=top.index, dtype=object)
    flags = {
        "share_text_sinks": top["segment"] == "text",
        "share_bos_sinks": role == "bos",
        "share_index0": top["key"] == 0,
    }
    for name, flag in flags.items():
        rows = top.assign(flag=flag.astype(float))
        yield _mean(rows, "flag", study, name, "share", arm="baseline", at=at)


def _curves(summary: pd.DataFrame, study: Study) -> Iterator[dict[str, Any]]:
    """First, last and largest value over steps, per layer."""
    if not {"step", "layer", "prompt_id"} <= set(summary):
        return
    mine = summary[(summary["arm"] == "baseline") & summary["layer"].notna()].astype({"layer": int})
    for name in (name for name in CURVES if name in mine):
        for layer, rows in mine.groupby("layer"):
            steps = rows.groupby("step")[name].mean()
            if steps.dropna().empty:
                continue
            points = {"start": steps.index.min(), "end": steps.index.max(), "peak": steps.idxmax()}
            for point, step in points.items():
                at = {"layer": int(str(layer)), "point": point}
                note = f"at step {int(step)} of {int(steps.index.max()) + 1}" if point == "peak" else ""
                rows_then = rows[rows["step"] == step]
                yield _mean(rows_then, name, study, name, "curve", arm="baseline", at=at, note=note)


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
