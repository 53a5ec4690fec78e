"""What each metric is called on a page and what a change of it means; unknown metrics keep their own name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricWords:
    """Name and meaning of one metric."""

    name: str
    meaning: str
    away: int = 0
    """+1 / -1: larger / smaller means further from the baseline image of the same unit. 0: not a distance."""
    effect: bool = True
    """False where a difference between arms means nothing."""


WORDS = {
    "scene": MetricWords(
        "scene correctness", "share of images that show what the prompt asked, by the exact reader"
    ),
    "clip_t": MetricWords("CLIP-T", "cosine of image and prompt embeddings"),
    "hps": MetricWords("HPS v2.1", "predicted human preference, a cosine"),
    "imagereward": MetricWords("ImageReward", "predicted human preference, a standardised reward"),
    "pickscore": MetricWords("PickScore", "predicted human choice, a scaled cosine"),
    "vqascore": MetricWords("VQAScore", "probability that a model asked about the prompt answers yes"),
    "lpips": MetricWords(
        "LPIPS to baseline", "learned perceptual distance to the baseline image of the same unit", 1
    ),
    "ms_ssim": MetricWords(
        "MS-SSIM to baseline", "multi-scale structural similarity to the baseline image", -1
    ),
    "ssim": MetricWords(
        "SSIM to baseline", "structural similarity to the baseline image of the same unit", -1
    ),
    "psnr": MetricWords(
        "PSNR to baseline", "peak signal-to-noise ratio to the baseline image, in dB", -1, effect=False
    ),
    "rmse": MetricWords("RMSE to baseline", "root mean square pixel difference to the baseline image", 1),
    "frame_change": MetricWords("frame change", "mean absolute difference of neighbouring frames of a video"),
    "frame_change_rmse": MetricWords(
        "frame change to baseline",
        "root mean square difference of how the video changes to the baseline's",
        1,
    ),
    "loss": MetricWords("loss", "mean nats per word, or per answer, given to the truth"),
    "perplexity": MetricWords("perplexity", "exp of the mean nats per word of a text"),
    "accuracy": MetricWords("accuracy", "share of words, or answers, of which the likeliest is the true one"),
    "top1": MetricWords(
        "top-1 agreement", "share of words, or answers, of which the likeliest is the baseline's", -1
    ),
    "feature_cosine": MetricWords(
        "feature cosine to baseline", "cosine of features with the baseline's of the same unit", -1
    ),
}


def words(metric: str) -> MetricWords:
    """Words for a metric; a variant such as `lpips-alex` or `clip_t:tiny` is recognised, with its suffix."""
    if metric in WORDS:
        return WORDS[metric]
    for name, known in WORDS.items():
        if metric.startswith(name) and not metric[len(name)].isalnum():
            return MetricWords(f"{known.name} ({metric})", known.meaning, known.away, known.effect)
    return MetricWords(metric, "", 0)


def metric_name(metric: str, *, capital: bool = False) -> str:
    """The metric's name as printed."""
    name = words(metric).name
    return name[:1].upper() + name[1:] if capital else name


def order(metrics: list[str]) -> list[str]:
    """Outcomes first, distances to the baseline image after them, each in the order given."""
    return sorted(metrics, key=lambda m: words(m).away != 0)
