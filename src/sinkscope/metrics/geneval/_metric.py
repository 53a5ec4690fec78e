"""The metric `geneval`: 1 where the detector finds what the prompt asks for, 0 where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._files import versions
from .._image import ImageError, to_rgb
from .._protocol import Direction, MetricInfo, Prompt, check_inputs
from .._weights import AbsentWeightsError, looked, provenance
from ._colors import BACKGROUND, CLIP, ColorClassifier
from ._detector import PREPROCESS, Detector
from ._judge import Judgement, Rules, judge, keep
from ._names import CLASSES


class Geneval:
    """GenEval's correctness of each image for its prompt.

    Prompts need GenEval's metadata (`include`, `exclude`, and the task), as those of "geneval" have it.

    Args:
        checkpoint: Detector: a folder that `sinkscope convert geneval` wrote, or a folder or hub id of
            another Mask2Former, which makes it an approximation; None: `geneval-detector` in the weights
            folder.
        clip: CLIP checkpoint of the colour classifier; folder or hub id.
        threshold: A detection counts above this confidence.
        counting_threshold: The same for the task "counting".
        max_objects: Detections of a class that are looked at.
        max_overlap: Overlap at which the less confident of two detections is dropped; 1 drops none.
        position_threshold: Share of both objects' sizes that a distance must exceed to be a direction.
        batch: Crops per forward pass of the colour classifier; images run one at a time.
        device: Where to run.
        download: Fetch hub ids that are not on this machine. Off by default: nothing is downloaded unasked.
    """

    name = "geneval"
    direction: Direction = "higher"
    needs = frozenset({"prompt"})

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        clip: str | Path = CLIP,
        threshold: float = 0.3,
        counting_threshold: float = 0.9,
        max_objects: int = 16,
        max_overlap: float = 1.0,
        position_threshold: float = 0.1,
        batch: int = 16,
        device: str = "cpu",
        download: bool = False,
    ) -> None:
        self.rules = Rules(threshold, counting_threshold, max_objects, max_overlap, position_threshold)
        self.detector = Detector(checkpoint, device=device, download=download)
        self.colors = ColorClassifier(clip, batch=batch, device=device, download=download)

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs the converted detector and CLIP ViT-L/14."""
        return looked(cls.name, cls()._look)

    def _look(self) -> None:
        """Raise one error that names all weights that are missing."""
        absent = []
        for look in (self.detector.folder, self.colors._files):
            try:
                look()
            except AbsentWeightsError as error:
                absent.append(error)
        if absent:
            raise AbsentWeightsError(
                " ".join(error.reason for error in absent), " ".join(error.how for error in absent)
            )

    def identity(self) -> dict[str, Any]:
        """What decides the numbers; `official` says whether the detector is the published one."""
        self._look()
        colors = self.colors.identity()
        return {
            "metric": self.name,
            "backend": "transformers Mask2FormerForUniversalSegmentation",
            "official": self.detector.official,
            "checkpoint": self.detector.label(),
            "sha256": self.detector.sha256(),
            "source": provenance(self.detector.folder()).get("source"),
            "colors": {name: colors[name] for name in ("checkpoint", "sha256", "preprocess", "text")},
            "background": BACKGROUND,
            "rules": vars(self.rules).copy(),
            "dtype": "float32",
            "preprocess": PREPROCESS,
            "versions": versions("torch", "transformers", "tokenizers", "pillow", "numpy"),
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """1.0 where the image shows what its prompt asks, 0.0 where it does not: float64 `[n]`."""
        check_inputs(self, images, prompts, reference)
        return np.array([float(found.correct) for found in self.judgements(images, prompts or ())])

    def judgements(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[Judgement]:
        """Whether each image is correct, and if not, why.

        Raises:
            ImageError: A prompt has no clauses that GenEval could judge by, or names a class the detector
                does not know; before anything is computed.
        """
        for prompt in prompts:
            check_prompt(prompt)
        return [self._judge(to_rgb(image), prompt) for image, prompt in zip(images, prompts, strict=True)]

    def notes(self, prompts: Sequence[Prompt]) -> list[str]:
        """On every row: that the detector is not the published one, where it is not."""
        words = "" if self.detector.official else f"approximation: detector {self.detector.label()}"
        return [words] * len(prompts)

    def _judge(self, image: Image.Image, prompt: Prompt) -> Judgement:
        task = str(prompt.metadata.get("tag", prompt.task))
        found = self.detector(image, floor=self.rules.least(task))
        objects = keep(found, task, self.rules)
        return judge(objects, prompt.metadata, partial(self.colors, image), self.rules)


def check_prompt(prompt: Prompt) -> None:
    """Raise `ImageError` unless GenEval can judge by the metadata of a prompt."""
    clauses = [*prompt.metadata.get("include", ()), *prompt.metadata.get("exclude", ())]
    if not prompt.metadata.get("include"):
        raise ImageError(
            f"prompt {prompt.text!r} has no 'include' clauses for geneval to judge by. Use the prompts "
            "'geneval', or another metric."
        )
    if strange := [clause["class"] for clause in clauses if clause["class"] not in CLASSES]:
        raise ImageError(
            f"prompt {prompt.text!r} asks for {strange[0]!r}, which is none of the detector's 80 classes. "
            "Use the prompts 'geneval', or another metric."
        )
