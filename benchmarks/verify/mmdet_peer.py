"""Write `tests/metrics/geneval_peer.json`: what MMDetection and OpenCV themselves find and compute.

GenEval's detector runs in MMDetection 2.28.2 as released (its pipeline, network and post-processing), on
small weights that `fill` gives by name, so only names, shapes and detections are stored. The environment:

    python3.11 -m venv ENV && ENV/bin/pip install wheel
    ENV/bin/pip install --no-deps --no-build-isolation mmcv==1.7.2      # without compiled operators
    ENV/bin/pip install --no-deps mmdet==2.28.2 "opencv-python-headless<5" pycocotools terminaltables addict \
        yapf==0.40.1 platformdirs tomli six scipy
    # and a .pth file in its site-packages that names those of the project, for torch and numpy
    PYTHONPATH=. ENV/bin/python benchmarks/verify/mmdet_peer.py

mmcv without operators uses its own PyTorch form of deformable attention; torchvision, which MMDetection
imports and Mask2Former does not use, is an empty stand-in.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.metrics.peer_cases import fill
from tests.metrics.resize_cases import CASES, noise

FILE = Path("tests/metrics/geneval_peer.json")
CONFIG = ".mim/configs/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py"
PICTURES = [(300, 12), (9, 200), (333, 10)]
"""Width and height; long and thin, so that the network's input stays small at the released 1333 x 800."""


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def stand_ins() -> None:
    """Empty modules for torchvision, and operators that fail when they are called."""
    for name in ("", ".ops", ".models", ".transforms", ".transforms.functional", ".datasets"):
        module = _Empty("torchvision" + name)
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec("torchvision" + name, None)
        sys.modules["torchvision" + name] = module
    sys.modules["torchvision"].__dict__["__version__"] = "0.28.0"
    importlib.import_module("mmcv.utils.ext_loader").load_ext = lambda name, functions: types.SimpleNamespace(
        **dict.fromkeys(functions)
    )


def small(config: Any) -> Any:
    """The released configuration with fewer and narrower layers."""
    model, head = config.model, config.model.panoptic_head
    model.train_cfg = None
    model.backbone.update(
        embed_dims=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], drop_path_rate=0.0, init_cfg=None
    )
    head.update(in_channels=[32, 64, 128, 256], feat_channels=32, out_channels=32, num_queries=12)
    head.positional_encoding.num_feats = head.pixel_decoder.positional_encoding.num_feats = 16
    for part, layers, wide in ((head.pixel_decoder.encoder, 2, 48), (head.transformer_decoder, 3, 64)):
        part.num_layers = layers
        part.transformerlayers.attn_cfgs.embed_dims = 32
        part.transformerlayers.ffn_cfgs.update(embed_dims=32, feedforward_channels=wide)
    head.transformer_decoder.transformerlayers.feedforward_channels = 64
    return config


def picture(index: int) -> Image.Image:
    width, height = PICTURES[index]
    blocks = (
        np.random.RandomState(index).randint(0, 256, (height // 3 + 1, width // 3 + 1, 3)).astype(np.uint8)
    )
    return Image.fromarray(blocks.repeat(3, axis=0).repeat(3, axis=1)[:height, :width])


def detections(folder: Path) -> dict[str, Any]:
    builder, apis = importlib.import_module("mmdet.models"), importlib.import_module("mmdet.apis")
    path = Path(importlib.import_module("mmdet").__path__[0]) / CONFIG
    config = small(importlib.import_module("mmcv").Config.fromfile(str(path)))
    model = builder.build_detector(config.model).eval()
    shapes = {n: list(v.shape) for n, v in model.state_dict().items() if v.is_floating_point()}
    model.load_state_dict(fill(shapes), strict=False)
    model.cfg = config
    found = []
    for index in range(len(PICTURES)):
        picture(index).save(folder / "image.png")
        with torch.no_grad():
            boxes, masks = apis.inference_detector(model, str(folder / "image.png"))
        rows = [
            [kind, *(int(v) for v in box[:4]), float(box[4]), int(mask.sum())]
            for kind, (some, every) in enumerate(zip(boxes, masks, strict=True))
            for box, mask in zip(some, every, strict=True)
        ]
        found.append(rows)
    return {"shapes": shapes, "pictures": PICTURES, "detections": found}


def resized() -> dict[str, str]:
    cv2 = importlib.import_module("cv2")
    out = {}
    for name, (source, target) in CASES.items():
        image = cv2.resize(noise(*source), target, interpolation=cv2.INTER_LINEAR)
        out[name] = hashlib.sha256(image.tobytes()).hexdigest()
    return {"opencv": cv2.__version__, **out}


def main() -> None:
    stand_ins()
    with tempfile.TemporaryDirectory() as folder:
        result = {"resized": resized(), **detections(Path(folder))}
    FILE.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    print(f"{FILE}: {FILE.stat().st_size} bytes, {[len(rows) for rows in result['detections']]} detections")
    print("scores", [max(row[5] for row in rows) for rows in result["detections"]])


if __name__ == "__main__":
    main()
