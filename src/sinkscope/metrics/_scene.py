"""Scene correctness: does the exact scene reader find in the image what the prompt asked for?

1 is correct, 0 is judged incorrect. Nothing else becomes 0: an image that cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sinkscope.errors import UsageError

from ._files import sha256, versions
from ._image import to_rgb
from ._protocol import Direction, MetricInfo, Prompt, check_inputs

READER = "sinkscope.shapes.reader"


class Scene:
    """Judge scenes of coloured shapes by geometry, without learned weights.

    Prompts must carry GenEval-like metadata: `include` (and `exclude`) clauses.
    """

    name = "scene"
    direction: Direction = "higher"
    needs = frozenset({"prompt"})

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs the scene reader, which comes with the package, and its image library."""
        try:
            import_module(READER)
        except ImportError as error:
            return MetricInfo(
                cls.name,
                "broken",
                reason=str(error),
                how="Reinstall sinkscope.",
            )
        return MetricInfo(cls.name, "ready")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers; `sha256` is that of the reader's source."""
        source = Path(str(_reader().__file__))
        files = sorted(source.parent.glob("*.py")) if source.name == "__init__.py" else [source]
        return {
            "metric": self.name,
            "backend": READER,
            "checkpoint": None,
            "sha256": sha256(files),
            "dtype": "uint8",
            "preprocess": "rgb-uint8, no resize",
            "versions": versions("sinkscope", "scikit-image", "opencv-python-headless", "pillow", "numpy"),
        }

    def score(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[Prompt] | None = None,
        reference: Sequence[Image.Image] | None = None,
    ) -> NDArray[np.float64]:
        """1.0 where the image shows what its prompt asks, 0.0 where it does not: float64 `[n]`."""
        check_inputs(self, images, prompts, reference)
        asked = list(prompts or ())
        if bad := [prompt.text for prompt in asked if not prompt.metadata.get("include")]:
            raise UsageError(
                f"Metric 'scene' got {len(bad)} prompts without metadata to judge by, the first {bad[0]!r}; "
                "expected an 'include' list. Use the prompts 'shapes', or another metric."
            )
        judge = _reader().judge
        verdicts = [
            judge(to_rgb(image), prompt.metadata) for image, prompt in zip(images, asked, strict=True)
        ]
        return np.array([1.0 if verdict.correct else 0.0 for verdict in verdicts], dtype=np.float64)


def _reader() -> ModuleType:
    return import_module(READER)
