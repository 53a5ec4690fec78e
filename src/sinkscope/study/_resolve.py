"""Settings a study leaves open, resolved against the model and the device; written to `study.yaml`."""

from __future__ import annotations

from typing import Any

from sinkscope.errors import UsageError
from sinkscope.models import resolve_sites, sites
from sinkscope.study._outputs import IMAGE, kind_of
from sinkscope.study._record import parameters
from sinkscope.study._study import Study

SMALL_MODEL = 200_000_000
LARGE_MODEL_UNITS = 8


def resolve(pipe: Any, study: Study) -> dict[str, Any]:
    """Batch, device, threads, dtype and what is observed, as plain data.

    A small model (under 200 million parameters with its text encoders) runs in batches of 8 on a CPU and 32
    on a GPU and is observed in all layers and units; a large one in batches of 1 and 4, three layers, 8
    units.

    Raises:
        UsageError: An arm or the observation names a layer or site that the model does not have.
    """
    import torch

    count = parameters(pipe)
    small = count < SMALL_MODEL
    device = torch.device(pipe.device).type
    default_batch = {True: 8, False: 1}[small] if device == "cpu" else {True: 32, False: 4}[small]
    kind = kind_of(pipe)
    return {
        # Named only where it is not the usual one.
        **({} if kind == IMAGE else {"output": kind}),
        "batch": study.batch or default_batch,
        "device": device,
        "threads": torch.get_num_threads(),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "pipeline": type(pipe).__name__,
        "parameters": count,
        "observe": _observed(pipe, study, small),
    }


def _observed(pipe: Any, study: Study, small: bool) -> dict[str, Any] | None:
    plan = study.observe
    if plan is None:
        return None
    kind = plan.kind or default_kind(pipe)
    layers = list(plan.layers) if plan.layers is not None else None
    if layers is None and not small:
        known = sorted({site.layer for site in sites(pipe) if site.layer is not None})
        layers = sorted({known[round(part * (len(known) - 1))] for part in (0.25, 0.5, 0.75)})
    resolve_sites(pipe, layers=layers, kind=kind)
    units = plan.units if plan.units is not None or small else LARGE_MODEL_UNITS
    return {**plan.to_dict(), "layers": layers, "kind": kind, "units": units}


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
