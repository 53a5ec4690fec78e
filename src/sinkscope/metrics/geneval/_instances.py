"""From the outputs of Mask2Former to instances, as MMDetection does it (`MaskFormerFusionHead`).

A query may give several instances, one per class. The score is the class probability times the mean mask
probability inside the mask; the box is the tightest around the mask. This is not what transformers' own
post-processing does (masks of 384 pixels, enlarged by nearest neighbour).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

PER_IMAGE = 100
"""Pairs of query and class that are looked at."""


class Instances(NamedTuple):
    """Instances of one image."""

    labels: Tensor
    """int64 `[n]`."""
    scores: Tensor
    """float32 `[n]`."""
    boxes: Tensor
    """float32 `[n, 4]`: left, top, right, bottom in pixels, right and bottom exclusive; zeros without a
    mask."""
    masks: Tensor
    """bool `[n, height, width]`."""


def instances(
    classes: Tensor,
    masks: Tensor,
    *,
    padded: tuple[int, int],
    resized: tuple[int, int],
    original: tuple[int, int],
    floor: float = 0.0,
) -> Instances:
    """Instances of one image, of undetermined order.

    Args:
        classes: Logits `[query, class + 1]`, the last for "nothing".
        masks: Logits `[query, h, w]` at a quarter of the padded size.
        padded: Height and width of the network's input.
        resized: Height and width of the image in it, from the left top corner.
        original: Height and width that masks are wanted in.
        floor: Leave out instances that cannot reach this score: a score is at most the class probability.
    """
    kinds = classes.shape[-1] - 1
    likely = classes.softmax(dim=-1)[:, :-1].flatten()
    scores, pairs = likely.topk(min(PER_IMAGE, likely.numel()))
    pairs, scores = pairs[scores > floor], scores[scores > floor]
    queries, which = torch.unique(pairs // kinds, return_inverse=True)
    chosen = _enlarge(masks[queries], padded, resized, original)
    inside = chosen > 0
    # Sums in the order and precision of the original: float32, and 1e-6 against empty masks.
    sure = (chosen.sigmoid() * inside).flatten(1).sum(1) / (inside.float().flatten(1).sum(1) + 1e-6)
    boxes = _boxes(inside)
    return Instances(pairs % kinds, scores * sure[which], boxes[which], inside[which])


def _enlarge(
    masks: Tensor, padded: tuple[int, int], resized: tuple[int, int], original: tuple[int, int]
) -> Tensor:
    """Logits at the image's own size, by two bilinear steps."""
    if not len(masks):
        return masks.new_zeros((0, *original))
    full = interpolate(masks[:, None], size=padded, mode="bilinear", align_corners=False)
    cut = full[:, :, : resized[0], : resized[1]]
    return interpolate(cut, size=original, mode="bilinear", align_corners=False)[:, 0]


def _boxes(inside: Tensor) -> Tensor:
    """Tightest boxes `[n, 4]` of masks `[n, height, width]`."""
    boxes = torch.zeros((len(inside), 4), device=inside.device)
    for row, mask in enumerate(inside):
        across, down = mask.any(dim=0).nonzero()[:, 0], mask.any(dim=1).nonzero()[:, 0]
        if len(across):
            ends = (across[0], down[0], across[-1] + 1, down[-1] + 1)
            boxes[row] = torch.stack(ends).to(boxes.dtype)
    return boxes
