"""How long the statistics and the page of a large run take: 553 prompts, 12 arms, 4 metrics, 10,000 draws.

    python benchmarks/analysis.py [--prompts 553] [--draws 10000] [--keep FOLDER]

Writes a run folder with invented scores and small images (no model), then times `Run.analyse` and
`Run.report`, and says how large the page is and, where Chromium is here, how long it takes to load. The bar:
20 s for both on two cores, a page below 40 MB that opens within 2 s. Docs: docs/power.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from sinkscope import prompts
from sinkscope.attention import TopMass
from sinkscope.models import Edit
from sinkscope.study import Run, Study, _files, _record
from sinkscope.study._plan import make_plan, resolve_prompts
from sinkscope.study._store import Store

METRICS = ("scene", "clip_t", "rmse", "lpips")
MARGINS = {"scene": 0.05, "clip_t": 0.01, "rmse": 0.02, "lpips": 0.02}
BUDGETS = (1, 2, 5, 10, 20)
SIDE = 64


def study(n_prompts: int, draws: int) -> Study:
    """Baseline, a null arm, and sinks and random keys at five budgets: 12 arms."""
    edits = {f"sink_{budget}": Edit(TopMass(keys_per_head=budget)) for budget in BUDGETS}
    arms = {"null": edits["sink_1"].control("null")}
    for name, edit in edits.items():
        arms[name] = edit
        arms[name.replace("sink", "random")] = edit.control("count")
    return Study(
        prompts=prompts.load("geneval")[:n_prompts],
        arms=arms,
        metrics=METRICS,
        margins=MARGINS,
        draws=draws,
        observe=None,
        batch=16,
        name="synthetic",
    )


def scores(of: Study, units: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Invented scores: sinks cost more than random keys, and more keys cost more."""
    rng = np.random.default_rng(0)
    prompt = rng.normal(size=len(units))
    frames = []
    for arm in of.arm_names:
        kind, _, budget = arm.partition("_")
        harm = {"sink": 0.06, "random": 0.01}.get(kind, 0.0) * np.sqrt(float(budget or 0))
        own = rng.normal(size=len(units)) * (0 if kind in ("baseline", "null") else 1)
        values = {
            "scene": (prompt + 0.5 * own + 1 > 4 * harm).astype(float),
            "clip_t": 0.25 + 0.03 * prompt + 0.01 * own - 0.1 * harm,
            "rmse": harm * rng.lognormal(0, 0.75, len(units)),
            "lpips": harm * rng.lognormal(0, 0.5, len(units)),
        }
        for metric, column in values.items():
            frame = pd.DataFrame(units, columns=["unit", "prompt_id", "prompt", "task"])
            frames.append(frame.assign(seed=0, arm=arm, metric=metric, value=column, status="ok", note=""))
    return pd.concat(frames, ignore_index=True)


def write(folder: Path, of: Study) -> None:
    """A finished run as `sinkscope.run` leaves it, as far as analysis and page read it."""
    asked = resolve_prompts(of)
    record = {**of.to_dict(), "format": 1, "prompt_records": _record.prompt_records(asked)}
    record |= {"resolved": {"batch": of.batch, "observe": None}, "hash": of.hash}
    plan = make_plan(of, asked, of.batch or 16)
    store = Store(folder)
    units = [(u.id, u.prompt.id, u.prompt.text, u.prompt.task) for u in plan.units]
    store.save_table("scores", scores(of, units))
    store.save_table("receipts", pd.DataFrame({"arm": [], "mass_before": [], "mass_after": []}))
    store.write_record(record)
    for task in plan.tasks():
        digests = {}
        for unit in task.batch.units:
            # The null arm's image is the baseline's.
            key = int(_files.digest(f"{task.arm.replace('null', 'baseline')} {unit.id}".encode())[:8], 16)
            path = store.image_path(task.arm, unit.id)
            path.parent.mkdir(parents=True, exist_ok=True)
            color = np.random.default_rng(key).integers(0, 255, size=(3, 3, 3), dtype=np.uint8)
            Image.fromarray(color).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
            digests[unit.id] = _files.digest(path.read_bytes())
        marker = store.shard(task) / "done.json"
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps({"images": digests, "tables": {}}), encoding="utf-8")


PROBE = """<!doctype html><body><script>
const began = performance.now(), frame = document.createElement("iframe");
frame.style = "width:1280px;height:900px";
frame.onload = () => {
  const height = frame.contentDocument.body.offsetHeight;  // lays the page out
  document.body.dataset.took = height > 0 ? performance.now() - began : NaN;
};
frame.src = "report.html";
document.body.append(frame);
</script></body>"""


def opened(page: Path) -> float | None:
    """Seconds from asking for the page until it is loaded and laid out; None where there is no Chromium."""
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    if browser is None:
        return None
    probe = page.with_name("probe.html")
    probe.write_text(PROBE, encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        line = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        line += ["--allow-file-access-from-files", "--dump-dom", probe.as_uri()]
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=300)
    probe.unlink()
    found = re.search(r'data-took="([0-9.]+)"', done.stdout)
    return float(found.group(1)) / 1000 if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=553)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="write the run here and leave it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch) / "run"
        of = study(arguments.prompts, arguments.draws)
        write(folder, of)
        run = Run.open(folder)
        rows = []
        for name, call in (("analyse", run.analyse), ("report", run.report)):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            rows.append((name, time.perf_counter() - wall, time.process_time() - cpu))
        page = folder / "report.html"
        print(f"{len(run.plan.units)} units, {len(of.arm_names)} arms, {len(METRICS)} metrics", end=", ")
        print(f"{of.draws} draws, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for name, wall, cpu in [*rows, ("both", *map(sum, zip(*(row[1:] for row in rows), strict=True)))]:
            print(f"{name:8} {wall:6.1f} s   ({cpu:.1f} s of CPU)")
        print(f"page     {page.stat().st_size / 1e6:6.1f} MB")
        if (seconds := opened(page)) is not None:
            print(f"opens in {seconds:6.1f} s (Chromium, headless)")


if __name__ == "__main__":
    main()
