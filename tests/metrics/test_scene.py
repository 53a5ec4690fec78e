"""The scene metric with the real reader."""

from __future__ import annotations

from PIL import Image, ImageDraw
from tests.metrics.helpers import Prompt

from sinkscope import metrics


def test_a_red_circle_is_red():
    picture = Image.new("RGB", (64, 64), (128, 128, 128))
    ImageDraw.Draw(picture).ellipse((18, 18, 46, 46), fill=(220, 30, 30))
    asked = [
        Prompt(f"a {color} circle", metadata={"include": [{"class": "circle", "count": 1, "color": color}]})
        for color in ("red", "blue")
    ]
    metric = metrics.get("scene")
    assert metric.score([picture] * 2, asked).tolist() == [1.0, 0.0]
    assert len(metric.identity()["sha256"]) == 64
