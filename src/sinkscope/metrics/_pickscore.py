"""PickScore v1 (Kirstain et al. 2023): cosine of a CLIP ViT-H/14 tuned on human choices, times its logit
scale.

The score is `exp(logit_scale) * cos(image, prompt)`, as its authors compute it, near 20 for ordinary pairs.
Images go through the CLIP recipe (shorter side, centre crop).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ._protocol import MetricInfo
from ._two_towers import TwoTowers
from ._weights import AbsentWeightsError, hub_folder, looked

CHECKPOINT = "yuvalkirstain/PickScore_v1"
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""The released checkpoint comes without tokenizer files; this is the one its authors name."""
SIZE = "3.9 GB"


class PickScore(TwoTowers):
    """PickScore of each image for its prompt.

    Args:
        checkpoint: Folder or hub id.
        tokenizer: Folder or hub id of the tokenizer; None takes the checkpoint's own where it has one, and
            otherwise the one its authors name.
        batch: Images per forward pass; halved when memory runs out.
        device: Where to run.
        dtype: "float32"; half precision rounds scores to steps as large as the effects.
        download: Fetch a hub id that is not on this machine. Off by default: nothing is downloaded unasked.
    """

    name = "pickscore"
    families = ("clip",)

    def __init__(
        self,
        checkpoint: str | Path = CHECKPOINT,
        *,
        tokenizer: str | Path | None = None,
        batch: int = 8,
        device: str = "cpu",
        dtype: str = "float32",
        download: bool = False,
    ) -> None:
        super().__init__(batch=batch, device=device, dtype=dtype)
        self.checkpoint, self.tokenizer, self.download = str(checkpoint), tokenizer, download

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs the released checkpoint and a CLIP tokenizer."""
        metric = cls()
        return looked(cls.name, lambda: (metric._files(), metric._tokenizer_folder()))

    def identity(self) -> dict[str, Any]:
        """What decides the numbers."""
        return super().identity() | {"formula": "exp(logit_scale) * cos"}

    def _label(self) -> str:
        return Path(self.checkpoint).name if Path(self.checkpoint).is_dir() else self.checkpoint

    def _scaled(self, cosine: Tensor) -> Tensor:
        scale: Tensor = self._model().logit_scale.float().exp()
        return scale * cosine

    def _folder(self) -> Path:
        return self._found

    @cached_property
    def _found(self) -> Path:
        if Path(self.checkpoint).is_dir():
            return Path(self.checkpoint)
        try:
            return hub_folder(self.checkpoint, download=self.download, size=SIZE)
        except AbsentWeightsError as error:
            also = "--include '*.json' --include '*.txt'"
            how = f"hf download {self.checkpoint} && hf download {TOKENIZER} {also}"
            raise AbsentWeightsError(
                f"PickScore lacks {self.checkpoint} (model.safetensors, {SIZE}) and a CLIP tokenizer (2 MB).",
                f"Fetch both with: {how}",
            ) from error

    def _tokenizer_folder(self) -> Path:
        return self._tokenizer_found

    @cached_property
    def _tokenizer_found(self) -> Path:
        folder = self._folder()
        if self.tokenizer is None and any(
            (folder / name).is_file() for name in ("tokenizer.json", "vocab.json")
        ):
            return folder
        named = str(self.tokenizer or TOKENIZER)
        if Path(named).is_dir():
            return Path(named)
        try:
            return hub_folder(named, download=self.download, size="2 MB")
        except AbsentWeightsError as error:
            raise AbsentWeightsError(
                f"PickScore lacks its CLIP tokenizer {named} (2 MB).",
                f"Fetch it with: hf download {named} --include '*.json' --include '*.txt'",
            ) from error
