"""Refuses a Frechet distance whose covariance cannot be estimated."""

from __future__ import annotations

from sinkscope.errors import UsageError


def check_rank(n_images: int, dimension: int, *, what: str = "FID") -> None:
    """Refuse a Frechet distance between sets of images that are too small for the features.

    The covariance of `n` feature vectors of `dimension` numbers has rank `n - 1` at most. Below full rank the
    distance is decided by how many images there are: two samples of the same distribution (dimension 256) lie
    95 apart with 100 images, 22 with 553 and 6 with 2000, and comparisons of models inherit that bias (Chong
    and Forsyth 2020). KID is an unbiased U-statistic of the same features (Binkowski et al. 2018).

    Args:
        n_images: In the smaller of the two sets.
        dimension: Of the features, for example 2048 for Inception.
        what: Name of the distance in the message.

    Raises:
        UsageError: `n_images <= dimension`.
    """
    if n_images < 2 or dimension < 1:
        raise UsageError(
            f"{what}: got {n_images} images and {dimension} features, expected at least 2 images and 1 "
            "feature."
        )
    if n_images <= dimension:
        raise UsageError(
            f"{what} of {n_images} images with {dimension} features: the covariance has rank "
            f"{n_images - 1} of {dimension}, so the number says how many images there are rather than how "
            f"good they are. Use KID (unbiased at any size), features of fewer than {n_images} dimensions, "
            f"or at least {dimension + 1} images."
        )
