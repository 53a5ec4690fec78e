"""Mask2Former on one image: the resizing, padding and normalisation it was published with, and its instances.

The pipeline is MMDetection's (`mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco`): the image fits 1333 x 800, is
padded to a multiple of 32 with grey 128, then normalised. Images run one at a time, because their sizes
differ and padding one to another's size would change its numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sinkscope.errors import UsageError

from .._batches import exact
from .._files import sha256
from .._image import pixels
from .._loading import load_config, load_model
from .._weights import AbsentWeightsError, hub_folder, once, provenance, weights_folder
from ._instances import Instances, instances
from ._judge import Found
from ._names import CLASSES
from ._resize import resize_linear

FOLDER = "geneval-detector"
SOURCE = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
URL = (
    "https://download.openmmlab.com/mmdetection/v2.0/mask2former/"
    f"mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco/{SOURCE}"
)
SIZE = "about 280 MB"
HOW = f"curl -fLO {URL} && sinkscope convert geneval {SOURCE}"
STAND_IN = "facebook/mask2former-swin-small-coco-instance"
"""The same architecture from another training run: an approximation of GenEval, and said to be one."""

LONG, SHORT, MULTIPLE = 1333, 800, 32
MEAN, STD, GREY = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 128
PREPROCESS = (
    f"cv2 linear into {LONG}x{SHORT}, padded to /{MULTIPLE} with {GREY}, mean {list(MEAN)}, std {list(STD)}"
)


def fit(width: int, height: int) -> tuple[int, int]:
    """Width and height of an image that fits the detector's size, as `mmcv.imrescale` rounds them."""
    scale = min(LONG / max(width, height), SHORT / min(width, height))
    return int(width * scale + 0.5), int(height * scale + 0.5)


def network_input(image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
    """Input float32 `[1, 3, h, w]`, and the height and width that the image takes in it."""
    width, height = fit(image.width, image.height)
    small = resize_linear(pixels(image), width, height)
    tall, wide = (-(-side // MULTIPLE) * MULTIPLE for side in (height, width))
    canvas = np.full((tall, wide, 3), GREY, dtype=np.float32)
    canvas[:height, :width] = small
    # OpenCV multiplies by the inverse, in float32.
    values = (canvas - np.array(MEAN, dtype=np.float32)) * (1 / np.array(STD)).astype(np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous(), (height, width)


class Detector:
    """GenEval's object detector.

    Args:
        checkpoint: Folder that `sinkscope convert geneval` wrote, or any folder or hub id of a Mask2Former of
            transformers with the 80 classes of COCO; None: `geneval-detector` in the weights folder.
        device: Where to run.
        download: Fetch a hub id that is not on this machine.
    """

    def __init__(self, checkpoint: str | Path | None, *, device: str, download: bool) -> None:
        self.checkpoint = checkpoint
        self.device, self.download = device, download

    @property
    def official(self) -> bool:
        """Whether the weights are the ones that GenEval was published with."""
        return bool(provenance(self.folder()).get("released"))

    def folder(self) -> Path:
        """Where the weights are; raises `AbsentWeightsError`."""
        named = weights_folder() / FOLDER if self.checkpoint is None else self.checkpoint
        folder = Path(named)
        if not folder.is_dir() and self.checkpoint is not None:
            folder = hub_folder(str(named), download=self.download, size="276 MB")
        if not sorted(folder.glob("model*.safetensors")) or not (folder / "config.json").is_file():
            raise AbsentWeightsError(
                f"GenEval lacks its detector: {folder / 'model.safetensors'}, made from {SOURCE} ({SIZE}).",
                f"Fetch and convert it: {HOW}. Or approximate it by a detector of the same architecture: hf "
                f"download {STAND_IN}, and name that id as checkpoint.",
            )
        return folder

    def files(self) -> list[Path]:
        """Files of the weights."""
        return sorted(self.folder().glob("model*.safetensors"))

    def label(self) -> str:
        """What the weights are called."""
        return FOLDER if self.checkpoint is None else str(self.checkpoint)

    def sha256(self) -> str:
        """Hash of the weights."""
        return sha256(self.files())

    def __call__(self, image: Image.Image, *, floor: float) -> dict[str, list[Found]]:
        """Objects by class; those that cannot reach a score of `floor` are left out."""
        values, resized = network_input(image)
        with exact(self.device):
            out = self._model()(pixel_values=values.to(self.device))
            found = instances(
                out.class_queries_logits[0].float(),
                out.masks_queries_logits[0].float(),
                padded=(values.shape[-2], values.shape[-1]),
                resized=resized,
                original=(image.height, image.width),
                floor=floor,
            )
        return by_class(found)

    def _model(self) -> Any:
        return once("geneval detector", self.files(), self.device, self._read_model)

    def _read_model(self) -> Any:
        from transformers import Mask2FormerForUniversalSegmentation
        from transformers.utils import logging

        folder = self.folder()
        config = load_config(folder)
        if config.model_type != "mask2former" or config.num_labels != len(CLASSES):
            raise UsageError(
                f"Metric 'geneval': the checkpoint in {folder} is a {config.model_type!r} model of "
                f"{config.num_labels} classes, expected 'mask2former' with the {len(CLASSES)} of COCO "
                f"instances. Convert {SOURCE}, or name {STAND_IN}."
            )
        # The report of transformers warns of a layer that this model never reads; ours is stricter.
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            model = load_model(
                folder,
                metric="geneval",
                dtype=torch.float32,
                model_class=Mask2FormerForUniversalSegmentation,
                unused=(".swin.layernorm.", "criterion."),
            )
        finally:
            logging.set_verbosity(before)
        return model.to(self.device)


def by_class(found: Instances) -> dict[str, list[Found]]:
    """Instances as objects by class."""
    objects: dict[str, list[Found]] = {}
    boxes, masks = found.boxes.cpu().numpy(), found.masks.cpu().numpy()
    for index, (label, score) in enumerate(zip(found.labels.tolist(), found.scores.tolist(), strict=True)):
        objects.setdefault(CLASSES[label], []).append(Found(boxes[index], score, masks[index]))
    return objects
