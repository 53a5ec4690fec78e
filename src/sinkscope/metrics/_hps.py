"""Human Preference Score v2.1 (Wu et al. 2023): cosine of a CLIP ViT-H/14 tuned on human choices.

The released `.pt` file is converted once (`sinkscope convert hps`); this module reads the safetensors. The
score is the raw cosine, as `hpsv2.score` returns it (its `evaluate` prints a hundred times that). The
package runs half precision on a GPU; here float32, because steps of 2.4e-4 are as large as the effects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sinkscope.errors import UsageError

from ._hps_input import HpsRecipe
from ._protocol import MetricInfo
from ._two_towers import TwoTowers
from ._weights import AbsentWeightsError, looked, provenance, weights_folder

FOLDER = "hps-v2.1"
SOURCE = "HPS_v2.1_compressed.pt"
SIZE = "3.9 GB"
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
HOW = (
    f"Fetch and convert it: hf download xswu/HPSv2 {SOURCE} --local-dir . && "
    f"hf download {TOKENIZER} --include '*.json' --include '*.txt' && sinkscope convert hps {SOURCE}"
)


class Hps(TwoTowers):
    """HPS v2.1 of each image for its prompt.

    Args:
        checkpoint: Folder that `sinkscope convert hps` wrote; None: `hps-v2.1` in the weights folder.
        antialias: False gives the resizing of torchvision before 0.17, which older numbers were made with.
        batch: Images per forward pass; halved when memory runs out.
        device: Where to run.
        dtype: "float32"; half precision rounds scores to steps as large as the effects.
    """

    name = "hps"
    families = ("clip",)

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        antialias: bool = True,
        batch: int = 8,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        super().__init__(batch=batch, device=device, dtype=dtype)
        self.checkpoint = weights_folder() / FOLDER if checkpoint is None else Path(checkpoint)
        self.antialias = bool(antialias)

    @classmethod
    def check(cls) -> MetricInfo:
        """Needs the converted checkpoint."""
        return looked(cls.name, cls()._files)

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, with the file the weights were converted from."""
        made = provenance(self._folder())
        return super().identity() | {"version": made.get("version"), "source": made.get("source")}

    def _recipe(self) -> HpsRecipe:
        return HpsRecipe(int(self._config().vision_config.image_size), antialias=self.antialias)

    def _folder(self) -> Path:
        folder = self.checkpoint
        if not (folder / "model.safetensors").is_file():
            raise AbsentWeightsError(
                f"HPS v2.1 lacks {folder / 'model.safetensors'} ({SIZE}), made from {SOURCE} ({SIZE}).", HOW
            )
        if provenance(folder).get("metric") != self.name:
            raise UsageError(
                f"Metric 'hps': {folder} was not written by 'sinkscope convert hps', and any other CLIP "
                "would give "
                f"numbers that are no HPS. Name the converted folder. {HOW}"
            )
        return folder
