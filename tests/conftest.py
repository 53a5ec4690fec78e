"""Settings of the whole suite, made before torch is imported."""

import os

# Tiny models are fastest on one thread, and child processes must compute with as many as this one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
