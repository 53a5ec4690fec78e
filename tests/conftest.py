"""Settings of the whole suite, made before torch is imported."""

import os
from pathlib import Path

# Tiny models are fastest on one thread, and child processes must compute with as many as this one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Triton decides when it is imported whether kernels run in its interpreter on the CPU;
# where there is a GPU they run on it.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

if os.environ.get("SINKSCOPE_OLDEST"):
    from tests.older import stand_in_for_missing_classes

    stand_in_for_missing_classes()
