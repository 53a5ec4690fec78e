"""CLIP-T: cosine similarity between an image and its prompt, by any CLIP or SigLIP checkpoint of
transformers.

Reported raw (not times 100). No text cleaning is applied (OpenAI's own loader repairs odd Unicode and HTML
first; all GenEval prompts give the same tokens either way).
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from pathlib import Path

from sinkscope.errors import MissingWeightsError

from ._protocol import MetricInfo
from ._two_towers import TwoTowers
from ._weights import AbsentWeightsError, hub_folder

SHAPES = "shapes"
"""Stands for the small CLIP that comes with the embedded model."""

DEFAULT = "openai/clip-vit-base-patch32"
"""What a study of any other model uses unless told otherwise."""

SIZES = {
    "openai/clip-vit-base-patch32": "605 MB",
    "openai/clip-vit-large-patch14": "1.7 GB",
    "google/siglip-base-patch16-224": "813 MB",
    "google/siglip-so400m-patch14-384": "3.5 GB",
}


class ClipT(TwoTowers):
    """Cosine similarity of image and prompt features.

    Args:
        checkpoint: Folder, hub id (for example "openai/clip-vit-base-patch32"), or None for the small CLIP of
            the embedded model, which knows coloured shapes and nothing else.
        batch: Images per forward pass; halved when memory runs out.
        device: Where to run.
        dtype: "float32"; half precision rounds scores to steps as large as the effects.
        download: Fetch a hub id that is not on this machine. Off by default: nothing is downloaded unasked.
    """

    name = "clip_t"

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        batch: int = 16,
        device: str = "cpu",
        dtype: str = "float32",
        download: bool = False,
    ) -> None:
        super().__init__(batch=batch, device=device, dtype=dtype)
        self.checkpoint = SHAPES if checkpoint is None else str(checkpoint)
        self.download = download

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs the embedded model's CLIP; other checkpoints are named by option."""
        try:
            cls()._files()
        except MissingWeightsError as error:
            how = f'Name another checkpoint: metrics.get("clip_t", checkpoint="{DEFAULT}").'
            reason = error.reason if isinstance(error, AbsentWeightsError) else str(error)
            return MetricInfo(cls.name, "missing", reason=reason, how=how)
        return MetricInfo(cls.name, "ready")

    def _label(self) -> str:
        return Path(self.checkpoint).name if Path(self.checkpoint).is_dir() else self.checkpoint

    def _folder(self) -> Path:
        return self._found

    @cached_property
    def _found(self) -> Path:
        if self.checkpoint == SHAPES:
            return Path(import_module("sinkscope.shapes").clip_folder())
        if Path(self.checkpoint).is_dir():
            return Path(self.checkpoint)
        return hub_folder(self.checkpoint, download=self.download, size=SIZES.get(self.checkpoint, ""))
