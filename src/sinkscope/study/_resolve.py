"""Settings a study leaves open, resolved against the model and the device; written to `study.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from sinkscope.errors import UsageError
from sinkscope.models import resolve_sites, sites
from sinkscope.prompts import PromptRecord
from sinkscope.study._outputs import IMAGE, kind_of
from sinkscope.study._plan import make_plan
from sinkscope.study._record import parameters
from sinkscope.study._study import Study

SMALL_MODEL = 200_000_000
SMALL_BATCH = 8
"""Units per batch of a small model on a CPU."""
LARGE_MODEL_UNITS = 8


def resolve(pipe: Any, study: Study, prompts: Sequence[PromptRecord], *, sharers: int = 1) -> dict[str, Any]:
    """Batch, device, threads, dtype and what is observed, as plain data.

    A small model (under 200 million parameters with its text encoders) is observed in all layers and units, a
    large one in three layers and 8 units. On a CPU a small one runs in batches of 8, where larger ones gain
    nothing, and a large one one by one; on a GPU a short probe says how many units fit.

    Raises:
        UsageError: An arm or the observation names a layer or site that the model does not have.
    """
    import torch

    count = parameters(pipe)
    small = count < SMALL_MODEL
    device = torch.device(pipe.device).type
    kind = kind_of(pipe)
    observed = _observed(pipe, study, small)
    return {
        # Named only where they are not the usual ones.
        **({} if kind == IMAGE else {"output": kind}),
        **({"causal": True} if any(site.kind == "causal" for site in sites(pipe)) else {}),
        "batch": study.batch or _batch(pipe, study, prompts, small, observed, sharers),
        "device": device,
        "threads": torch.get_num_threads(),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "pipeline": type(pipe).__name__,
        "parameters": count,
        "observe": observed,
    }


def _batch(
    pipe: Any,
    study: Study,
    prompts: Sequence[PromptRecord],
    small: bool,
    observed: dict[str, Any] | None,
    sharers: int,
) -> int:
    """Units per batch where the study names none."""
    import torch

    from sinkscope.models import observe
    from sinkscope.study._memory import probe
    from sinkscope.study._pipeline import one_at_a_time, paint

    if one_at_a_time(pipe):
        return 1
    if torch.device(pipe.device).type != "cuda":
        return SMALL_BATCH if small else 1
    short = replace(study, arms={}, steps=1, observe=None, equivalence=(), margins={})
    units = make_plan(short, prompts, 1).units

    def peak(count: int) -> int:
        torch.cuda.reset_peak_memory_stats(pipe.device)
        before = torch.cuda.memory_allocated(pipe.device)
        with ExitStack() as stack:
            if observed is not None:
                names = [unit.id for unit in units[:count]]
                stack.enter_context(
                    observe(pipe, observed["layers"], kind=observed["kind"], units=names, keep=("mass",))
                )
            paint(pipe, short, units[:count])
        return int(torch.cuda.max_memory_allocated(pipe.device)) - before

    return probe(peak, lambda: int(torch.cuda.mem_get_info(pipe.device)[0]) // sharers, units=len(units))


def _observed(pipe: Any, study: Study, small: bool) -> dict[str, Any] | None:
    plan = study.observe
    if plan is None:
        return None
    kind = plan.kind or default_kind(pipe)
    layers = list(plan.layers) if plan.layers is not None else None
    if layers is None:
        layers = _own_layers(pipe, small, every=plan.kind is not None)
    resolve_sites(pipe, layers=layers, kind=kind)
    units = plan.units if plan.units is not None or small else LARGE_MODEL_UNITS
    return {**plan.to_dict(), "layers": layers, "kind": kind, "units": units}


def _own_layers(pipe: Any, small: bool, *, every: bool) -> list[int] | None:
    """Layers to watch where the study names none; None for all of them.

    Layers that attend over time only are left out unless the study names a kind: their tables would have a
    row for each place of the picture.
    """
    kinds = [(site.layer, site.kind) for site in sites(pipe) if site.layer is not None]
    usual = [layer for layer, kind in kinds if every or kind != "temporal"]
    known = sorted(set(usual or [layer for layer, _ in kinds]))
    if small:
        return None if set(known) == {layer for layer, _ in kinds} else known
    return sorted({known[round(part * (len(known) - 1))] for part in (0.25, 0.5, 0.75)})


def default_kind(pipe: Any) -> str | None:
    """None (joint sites) where some block has one or no block has several sites; else "all"."""
    found = [site for site in sites(pipe) if site.layer is not None]
    blocks = [(site.name.partition(".")[0], site.layer) for site in found]
    if any(site.kind == "joint" for site in found) or len(blocks) == len(set(blocks)):
        return None
    return "all"


def check_edits(pipe: Any, study: Study) -> None:
    """Refuse arms that name a layer, site or kind the model does not have, before anything is generated.

    Raises:
        UsageError: Naming the arm and what the model has.
    """
    for arm in study.arm_names:
        for edit in study.edits(arm):
            try:
                resolve_sites(pipe, layers=edit.layers, sites=edit.sites, kind=edit.kind)
            except UsageError as error:
                raise UsageError(f"Arm {arm!r}: {error}") from error
