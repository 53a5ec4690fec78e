"""Training the embedded vision transformers: `python -m sinkscope.shapes.vision.train NAME --out FOLDER`.

A step paints fresh scenes of the training captions, keyed by the step, so both models see the same scenes in
the same order. The loss is the mean over the eight shapes of the cross-entropy of "absent" or its colour.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sinkscope.shapes._fit import export, fit, settings
from sinkscope.shapes.grammar import TASKS, every, is_held_out
from sinkscope.shapes.painter import SHAPES, paint
from sinkscope.shapes.scenes import draw
from sinkscope.shapes.vision._model import ANSWERS, KINDS, config
from sinkscope.shapes.vision._pipeline import open_pipeline, to_input, truth

KEPT_FOR_TESTS = 2**32
"""Seeds of generators from here on belong to tests."""


def main(arguments: list[str] | None = None) -> None:
    """Train one model and write its folder."""
    given = settings(__doc__, KINDS, arguments, steps=1500, lr=2e-3)
    model = KINDS[given.model](config(given.model))
    if given.model == "shapes-vit-registers":
        # Equal registers would stay equal: they have no position and get the same gradients.
        nn.init.trunc_normal_(model.backbone.embeddings.register_tokens, std=0.02)

    def loss_of(step: int) -> Tensor:
        _, scenes = draw(given.batch, np.random.default_rng((given.seed, step)))
        logits = model(pixel_values=to_input(paint(scenes))).logits.view(-1, len(SHAPES), ANSWERS)
        return F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(truth(scenes)).flatten())

    seconds = fit(model, loss_of, steps=given.steps, lr=given.lr, say=lambda text: print(text, flush=True))
    chosen = {name: value for name, value in vars(given).items() if name != "out"}
    command = f"python -m sinkscope.shapes.vision.train {given.model}"
    record: dict[str, Any] = {"command": command, **chosen, "seconds": round(seconds)}
    export(model, given.out, record)
    export(model, given.out, {**record, "quality": quality(given.model, given.out)})
    print((given.out / "training.json").read_text(encoding="utf-8"))


def quality(name: str, folder: Path, scenes: int = 600) -> dict[str, float]:
    """Loss and share of right answers on scenes never painted in training, seen and held-out captions.

    `present` counts only shapes that are in the picture (answering "absent" always is right for most of the
    others), `scene` only pictures of which all eight answers are right.
    """
    pipe = open_pipeline(name, folder)
    found: dict[str, float] = {"scenes": scenes}
    for split, wanted in (("", False), ("held_out_", True)):
        pools = [[c.text for c in every(task) if is_held_out(c) is wanted] for task in TASKS]
        pools = [pool for pool in pools if pool]
        texts = [pools[i % len(pools)][7 * i % len(pools[i % len(pools)])] for i in range(scenes)]
        read = []
        for start in range(0, scenes, 50):
            part = texts[start : start + 50]
            seeds = [torch.Generator().manual_seed(KEPT_FOR_TESTS + start + row) for row in range(len(part))]
            read += pipe(part, generator=seeds).arrays
        target = np.stack([arrays["target"] for arrays in read])
        right = np.stack([arrays["predicted"] for arrays in read]) == target
        loss = np.stack([arrays["loss"] for arrays in read]).mean()
        values = {"loss": loss, "present": right[target > 0].mean(), "scene": right.all(1).mean()}
        found |= {f"{split}{key}": round(float(value), 4) for key, value in values.items()}
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
