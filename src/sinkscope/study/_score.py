"""The second stage: scores of finished images. Any metric may be added at any later time.

A metric that cannot be computed here (absent weights, a wrong option, no memory) costs its own scores only:
the others are computed and written, and the end says what was left out and how to get it. `_scorer.py` keeps
scores under what they depend on, so a stage that was cut off continues, and a changed image or checkpoint is
scored again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from sinkscope import metrics
from sinkscope.errors import MissingWeightsError, SinkscopeError, StoreError, UsageError, unknown
from sinkscope.prompts import PromptRecord
from sinkscope.shapes import EMBEDDED
from sinkscope.study._outputs import VIDEO
from sinkscope.study._plan import Plan
from sinkscope.study._progress import Meter
from sinkscope.study._scorer import Scorer
from sinkscope.study._store import Store
from sinkscope.study._study import Study

CHUNK = 64
VIDEOS = 8
"""Units that are scored and kept together: videos have many frames each."""
OK = "ok"
CLIP = "openai/clip-vit-base-patch32"
COLUMNS = ("unit", "prompt_id", "prompt", "task", "seed", "arm", "metric", "value", "status", "note")


Options = Mapping[str, Mapping[str, Any]]


def check_metrics(
    names: Sequence[str], prompts: Sequence[PromptRecord], *, options: Options, model: str
) -> None:
    """Refuse metrics that do not exist or cannot be computed here, before any time is spent.

    Args:
        names: Metrics.
        prompts: The prompts of the study.
        options: Metric -> its options; a metric with options is built, so that its weights are looked for.
        model: The model of the study, for `settings`.

    Raises:
        UsageError: There is no such metric, or the prompts say nothing it could judge by.
        MissingWeightsError: It cannot be computed here; the message says what is missing and how to get it.
    """
    options = settings(names, options, model=model)
    known = {info.name: info for info in metrics.available()}
    for name in names:
        if name not in known:
            raise unknown("metric", name, known)
        if name in options:
            metrics.get(name, **options[name]).identity()
            continue
        info = known[name]
        if info.status != "ready":
            raise MissingWeightsError(
                f"Metric {name!r} cannot be computed here: {info.reason} {info.how}".strip()
            )
    for name in ("scene", "geneval"):
        if name in names:
            _check_scene(prompts, name)


def _check_scene(prompts: Sequence[PromptRecord], name: str = "scene") -> None:
    if bare := [prompt.text for prompt in prompts if not prompt.metadata.get("include")]:
        raise UsageError(
            f"Metric {name!r} judges by the metadata of a prompt, and {len(bare)} of {len(prompts)} "
            "prompts have "
            f"none, the first {bare[0]!r}. Use other metrics, or prompts with an 'include' list."
        )


def settings(
    names: Sequence[str], options: Options, *, model: str, device: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the options of each metric that has any.

    The embedded CLIP knows coloured shapes only, so that `clip_t` of any other model takes a published
    checkpoint (`clip_t.checkpoint` names another). `device` goes to every metric that has such an option.
    """
    out = {name: dict(options[name]) for name in names if name in options}
    for name in names:
        if name == "clip_t" and model not in EMBEDDED and not out.get(name, {}).get("checkpoint"):
            out[name] = {**out.get(name, {}), "checkpoint": CLIP}
        if device is not None and "device" in metrics.parameters(name):
            out[name] = {"device": device, **out.get(name, {})}
    return out


def check_sizes(study: Study) -> None:
    """Refuse distances between images of different sizes.

    Raises:
        UsageError: Naming the metric, the arm and both sizes.
    """
    for arm in study.arm_names:
        ours, theirs = study.sampling(arm), study.sampling(study.base(arm))
        if all(ours[name] == theirs[name] for name in ("height", "width")):
            continue
        for name in study.metrics:
            if "reference" in metrics.get(name, **study.metric_options.get(name, {})).needs:
                sizes = [f"{s['height']} x {s['width']}" for s in (ours, theirs)]
                raise UsageError(
                    f"Metric {name!r} compares images of one size, but arm {arm!r} is {sizes[0]} (height x "
                    f"width) and {study.base(arm)!r}, which it is compared with, {sizes[1]}. Name an arm of "
                    "the same size in against, or leave the metric out."
                )


class Scored(NamedTuple):
    """What came of scoring."""

    identities: dict[str, dict[str, Any]]
    """Metric -> identity, for `study.yaml`, of the metrics that were scored."""
    left_out: dict[str, SinkscopeError]
    """Metric -> why it could not be computed."""


def score(
    store: Store,
    plan: Plan,
    names: Sequence[str],
    *,
    options: Options,
    model: str,
    show: bool = True,
    bases: Mapping[str, str] | None = None,
    device: str | None = None,
    recorded: Mapping[str, Mapping[str, Any]] | None = None,
) -> Scored:
    """Score every image with every metric that can be computed here, and write `scores.parquet`.

    Args:
        store: The run folder.
        plan: All units and arms.
        names: Metrics.
        options: Metric -> its options.
        model: The model of the study.
        show: Show progress.
        bases: Arm -> the unedited arm whose images distances are measured from; the baseline where not named.
        device: Where metrics run; None leaves it to their options.
        recorded: Metric -> identity it was scored under before; its scores are kept where its weights are
        gone.

    Raises:
        UsageError: There is no such metric.
        StoreError: The run is not finished, or images are missing or not those that were generated.
    """
    for name in names:
        if name not in metrics.names():
            raise unknown("metric", name, metrics.names())
    found = settings(names, options, model=model, device=device)
    digests = store.image_digests(plan)
    earlier = _earlier(store)
    frames: list[pd.DataFrame] = []
    identities: dict[str, dict[str, Any]] = {}
    left_out: dict[str, SinkscopeError] = {}
    with Meter("score", plan.images * len(names), show=show) as meter:
        for name in names:
            before = meter.done
            try:
                if name == "scene":
                    _check_scene([unit.prompt for unit in plan.units])
                metric = metrics.get(name, **found.get(name, {}))
                scorer = Scorer(store, metric, digests, bases or {}, (recorded or {}).get(name))
                frames += _every_chunk(scorer, plan, meter)
            except StoreError:
                raise
            except SinkscopeError as error:
                left_out[name] = error
                meter.advance(before + plan.images - meter.done)
                if len(old := earlier[earlier["metric"] == name]) and name in (recorded or {}):
                    frames.append(old)
                    identities[name] = dict((recorded or {})[name])
                continue
            identities[name] = scorer.identity
            if scorer.absent is not None:
                meter.note(f"note: {name}: its weights are not here; the scores made before are kept")
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
    store.save_table("scores", table)
    return Scored(identities, left_out)


def _earlier(store: Store) -> pd.DataFrame:
    """The table as it is, for metrics that cannot be computed any more; empty where there is none."""
    try:
        table = store.table("scores")
    except StoreError:
        table = pd.DataFrame()
    return table if set(COLUMNS) <= set(table.columns) else pd.DataFrame(columns=list(COLUMNS))


def _every_chunk(scorer: Scorer, plan: Plan, meter: Meter) -> list[pd.DataFrame]:
    """The table of one metric in chunks; raises once for all damaged images, with the rest kept."""
    size = VIDEOS if scorer.store.kind == VIDEO else CHUNK
    chunks = [plan.units[start : start + size] for start in range(0, len(plan.units), size)]
    frames = []
    for arm in plan.arms:
        for index, units in enumerate(chunks):
            frames.append(scorer.chunk(arm, index, units))
            meter.advance(len(units))
    if bad := list(dict.fromkeys(scorer.damaged)):
        more = f" {len(bad) - 1} more images are damaged." if len(bad) > 1 else ""
        raise StoreError(f"{bad[0]}{more} The scores of the others are kept.")
    table = pd.concat(frames)
    if len(table) and not (table["status"] == OK).any():
        raise SinkscopeError(f"Not one of {len(table)} images could be scored: {table['status'].iloc[0]}")
    _say_notes(scorer.metric.name, table, meter)
    return frames


def _say_notes(name: str, table: pd.DataFrame, meter: Meter) -> None:
    """Say once per metric which prompts it did not take whole."""
    noted = table[table["note"] != ""].drop_duplicates("prompt_id")
    if len(noted):
        first = noted.iloc[0]
        meter.note(
            f"note: {name}: {len(noted)} of {table['prompt_id'].nunique()} prompts have a remark, the first "
            f"{first['prompt_id']}: {first['note']} (column note of scores.parquet)"
        )


def left_out_error(left_out: Mapping[str, SinkscopeError], total: int) -> SinkscopeError:
    """One error for all metrics that were left out, with the commands that would get them."""
    count = f"{len(left_out)} of {total} metrics could not be computed"
    lines = [f"{count}; the others were scored, and every earlier score is kept."]
    lines += [f"  {name}: {error}" for name, error in left_out.items()]
    kind = (
        MissingWeightsError
        if any(isinstance(error, MissingWeightsError) for error in left_out.values())
        else SinkscopeError
    )
    return kind("\n".join(lines))
