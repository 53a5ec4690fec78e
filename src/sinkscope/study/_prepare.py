"""What is asked of the model before anything is generated: whether it can run the study, and the settings
that the study leaves open. The answer is plain data, so that any process may ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sinkscope.prompts import PromptRecord
from sinkscope.study import _record, _resolve, _sharing
from sinkscope.study._pipeline import check_call
from sinkscope.study._study import Study


def prepare(
    pipe: Any, study: Study, prompts: Sequence[PromptRecord], *, new: bool, sharers: int = 1
) -> dict[str, Any]:
    """Check a study against its model.

    Args:
        pipe: The pipeline.
        study: What to run.
        prompts: Its prompts.
        new: Also resolve what the study leaves open, for the record of a new run.
        sharers: How many processes use the pipeline's device at the same time.

    Returns:
        `weights` (hash of each network), `device` (its kind), `parameters`, and for a new run `resolved` and
        `shared` as in `study.yaml`.

    Raises:
        UsageError: The model cannot run this study.
    """
    import torch

    check_call(pipe, study)
    made = {
        "weights": _record.weight_hashes(pipe),
        "device": torch.device(pipe.device).type,
        "parameters": _record.parameters(pipe),
    }
    if new:
        _resolve.check_edits(pipe, study)
        resolved = _resolve.resolve(pipe, study, prompts, sharers=sharers)
        shared = _sharing.sharing(study, resolved["observe"], pipe)
        made |= {"resolved": resolved, "shared": shared.to_dict()}
    return made
