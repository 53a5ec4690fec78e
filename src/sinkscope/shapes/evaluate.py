"""Accuracy of a shapes pipeline, read by the exact reader: `python -m sinkscope.shapes.evaluate FOLDER`.

Prints and, with `--write`, adds to the model's training record the share of right images per task and over
all, with 95 % Wilson intervals, for seen and held-out combinations.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from sinkscope.shapes.grammar import TASKS, Caption, every, is_held_out


def main(argv: list[str] | None = None) -> int:
    """Evaluate a pipeline folder."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    parser = argparse.ArgumentParser(prog="python -m sinkscope.shapes.evaluate", description=__doc__)
    parser.add_argument("model", type=Path, help="folder with pipeline/ and training.json")
    parser.add_argument("--n", type=int, default=600, help="images of seen combinations")
    parser.add_argument("--heldout", type=int, default=200, help="images of held-out combinations")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, help="default: the pipeline's own")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--write", action="store_true", help="add the result to training.json")
    args = parser.parse_args(argv)
    from sinkscope.shapes._pipeline import open_pipeline

    pipe = open_pipeline(args.model / "pipeline")
    if args.guidance is None:
        args.guidance = pipe.defaults["guidance_scale"]
    result: dict[str, Any] = {"steps": args.steps, "guidance": args.guidance}
    for split, n in (("seen", args.n), ("heldout", args.heldout)):
        if n:
            began = time.monotonic()
            result[split] = accuracy(
                pipe, n, split=split, steps=args.steps, guidance=args.guidance, batch=args.batch
            )
            result[split]["seconds_per_image"] = round((time.monotonic() - began) / n, 3)
            print(split, json.dumps(result[split], indent=1), flush=True)
    if args.write:
        file = args.model / "training.json"
        record = json.loads(file.read_text())
        record["accuracy"] = result
        file.write_text(json.dumps(record, indent=2) + "\n")
    return 0


def accuracy(
    pipe: Any, n: int, *, split: str, steps: int = 20, guidance: float | None = None, batch: int = 25
) -> dict[str, Any]:
    """Generate n images, tasks in equal shares, and return the share that the reader finds right.

    Prompts repeat with other noise where a task has fewer prompts than its share. "overall" is the mean of
    the task accuracies, as in GenEval.
    """
    import torch

    from sinkscope.shapes import reader

    options = {} if guidance is None else {"guidance_scale": guidance}
    captions = _captions(n, split)
    right: dict[str, list[bool]] = {}
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        noise = [torch.Generator().manual_seed(50_000 + start + i) for i in range(len(part))]
        images = pipe(
            [caption.text for caption in part], generator=noise, num_inference_steps=steps, **options
        ).images
        for caption, image in zip(part, images, strict=True):
            right.setdefault(caption.task, []).append(reader.judge(image, caption.metadata).correct)
    tasks = {task: wilson(sum(found), len(found)) for task, found in right.items()}
    overall = float(np.mean([row["accuracy"] for row in tasks.values()]))
    return {"n": n, "overall": round(overall, 4), "tasks": tasks}


def wilson(right: int, n: int) -> dict[str, float]:
    """Return accuracy and its 95 % Wilson interval."""
    z, share = 1.959964, right / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return {
        "n": n,
        "accuracy": round(share, 4),
        "low": round(center - half, 4),
        "high": round(center + half, 4),
    }


def _captions(n: int, split: str) -> list[Caption]:
    """n captions, tasks in turn; a task's captions come in keyed random order and repeat when used up."""
    pools = []
    for number, task in enumerate(TASKS):
        pool = [caption for caption in every(task) if is_held_out(caption) == (split == "heldout")]
        order = np.random.default_rng((1, number)).permutation(len(pool))
        if pool:
            pools.append([pool[i] for i in order])
    return [pools[i % len(pools)][(i // len(pools)) % len(pools[i % len(pools)])] for i in range(n)]


if __name__ == "__main__":
    raise SystemExit(main())
