"""The experiment: what to run, running it, keeping it, resuming it.

What this room guarantees:

- Arms differ by their edit alone: same batches, same slots, same noise, same handler path.
- A run can be killed at any moment; the same call continues, and on a CPU gives the same bits as an
  uninterrupted run.
- A file is whole or absent; a damaged one is found by its hash and made again.
- A folder never mixes two studies, two sets of weights or two kinds of device.
"""

from __future__ import annotations

from sinkscope.study._analyse import contrasts, ladders
from sinkscope.study._arm import Arm
from sinkscope.study._by_unit import Images
from sinkscope.study._observe_plan import ObservePlan
from sinkscope.study._plan import Batch, Plan, Task, Unit, make_plan, resolve_prompts
from sinkscope.study._run import Run, run
from sinkscope.study._study import Study

__all__ = [
    "Arm",
    "Batch",
    "Images",
    "ObservePlan",
    "Plan",
    "Run",
    "Study",
    "Task",
    "Unit",
    "contrasts",
    "ladders",
    "make_plan",
    "resolve_prompts",
    "run",
]
