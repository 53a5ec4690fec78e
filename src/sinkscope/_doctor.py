"""`sinkscope doctor`: versions, devices, weights; what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sinkscope._version import __version__
from sinkscope.errors import SinkscopeError

CORE = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pandas", "pyarrow", "scipy",
    "scikit-image", "matplotlib", "jinja2", "rich", "pyyaml", "filelock",
)  # fmt: skip


def examine() -> int:
    """Print what is here; 0 when everything the demo needs is, 1 otherwise."""
    print(
        f"sinkscope {__version__}, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}"
    )
    missing = list(_packages())
    if missing:
        print(f"\nmissing or too old: {', '.join(missing)}\n  get it: pip install {shlex.join(missing)}")
        return 1
    _devices()
    return 0 if all([_embedded(), _metrics(), _cache()]) else 1


def _packages() -> Iterator[str]:
    """Print versions; what is absent or older than sinkscope needs, as pip is asked for it."""
    print("\npackages")
    needed = _needed()
    for name in CORE:
        wanted = needed.get(name, "")
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name:<14} not installed")
            yield f"{name}{wanted}"
            continue
        fits = SpecifierSet(wanted).contains(version, prereleases=True)
        print(f"  {name:<14} {version}" + ("" if fits else f", but sinkscope needs {wanted}"))
        if not fits:
            yield f"{name}{wanted}"


def _needed() -> dict[str, str]:
    """Package to the versions that sinkscope needs; empty where it was not installed as a package."""
    try:
        asked = [Requirement(text) for text in importlib.metadata.requires("sinkscope") or ()]
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {one.name: str(one.specifier) for one in asked if one.marker is None}


def _devices() -> None:
    import torch

    print("\ndevices")
    print(f"  cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads used")
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        print(f"  cuda:{index}: {about.name}, {about.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        print("  mps")


def _embedded() -> bool:
    """The embedded models: their folders and sizes."""
    from sinkscope.shapes import EMBEDDED

    return all([_weights(name) for name in EMBEDDED])


def _weights(name: str) -> bool:
    from sinkscope import shapes

    print(f"\nembedded model {name!r}")
    try:
        folder = Path(shapes.folder(name))
    except (SinkscopeError, FileNotFoundError) as error:
        print(f"  missing: {error}")
        return False
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    if not size:
        print(
            "  missing: no weights in the package. Reinstall sinkscope, or train it: python -m "
            "sinkscope.shapes.train"
        )
        return False
    print(f"  found, {size / 2**20:.1f} MiB of weights")
    return True


def _metrics() -> bool:
    """Metrics and whether each can be computed; a missing optional one is no fault."""
    from sinkscope import metrics

    print(f"\nmetrics (converted weights: {metrics.weights_folder()})")
    for info in metrics.available():
        print(f"  {info.name:<12} {info.status}")
        for label, text in (("why", info.reason), ("get it", info.how)):
            if text and info.status != "ready":
                print(f"  {'':<12} {label}: {re.sub(chr(10) + ' *', ' ', text)}")
    return True


def _cache() -> bool:
    """Pipelines in the local hub cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    print("\nhub models on this machine")
    try:
        repos = sorted(scan_cache_dir().repos, key=lambda repo: repo.repo_id)
    except CacheNotFound:
        repos = []
    for repo in repos:
        print(f"  {repo.repo_id} ({repo.size_on_disk / 2**30:.2f} GiB)")
    if not repos:
        print(f"  none in {constants.HF_HUB_CACHE}. Get one: hf download <owner/model>")
    return True
