"""A fixed feature map for drawings, with which a small machine can train on them: blur,
then principal components."""

from __future__ import annotations

from typing import Literal

import pydantic
import torch
from torch import Tensor

from hf_icl.banks.bank import PIXEL_LEVELS, track, turn
from hf_icl.config import Config

CHUNK_ROWS = 4096


class BlurPCAConfig(Config):
    """Blur the drawings and keep their principal components: no whitening, one scale for all features."""

    kind: Literal["blur_pca"] = "blur_pca"
    sigma: float = pydantic.Field(
        default=1.5, gt=0, le=32, description="Standard deviation of the blur, in pixels."
    )
    n_components: int = pydantic.Field(default=64, ge=1, le=1024, description="Principal components kept.")


def fit_features(
    ink: Tensor, n_train: int, n_variants: int, config: BlurPCAConfig, *, progress: bool = False
) -> Tensor:
    """Turn drawings into vectors: x = a · V (blur(drawing) − m).

    m and V are the mean and the first principal components of the training characters' drawings, turned every
    way that is used; a makes their mean squared norm 1. Holdout characters have no part in them.

    Args:
        ink: uint8 (n_characters, n_drawings, size, size), training characters first.
        n_train: How many of the characters are for training.
        n_variants: 1, or 8 for flips and rotations as well, see `turn`.
        config: Blur and number of components.
        progress: Show a bar on standard error.

    Returns:
        float32 (n_characters, n_variants, n_drawings, n_components). Each component's sign is such that its
        largest weight is positive.

    Source: the project's own, found by search for a regime in which drawings show transience on a laptop.
    """
    n_characters, n_drawings, size, _ = ink.shape
    blurred = blur(ink.flatten(0, 1), config.sigma).flatten(1)
    turned = turn(torch.arange(size * size).view(size, size).expand(8, size, size), torch.arange(8)).flatten(
        1
    )
    pixels = turned[:n_variants]  # pixel that lands at each place of a variant
    mean, moments = _measure_moments(blurred[: n_train * n_drawings])
    mean = torch.stack([mean[order] for order in pixels]).mean(0)
    moments = torch.stack([moments[order][:, order] for order in pixels]).mean(0)
    covariance = moments - torch.outer(mean, mean)
    variances, axes = torch.linalg.eigh(covariance)
    variances, axes = variances.flip(0)[: config.n_components], axes.flip(1)[:, : config.n_components]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign() / variances.sum().sqrt()
    features = torch.empty(n_characters, n_variants, n_drawings, config.n_components)
    for variant, order in enumerate(track(pixels, "Mapping drawings to features", show=progress)):
        back = torch.argsort(order)  # turn the few axes instead of the many drawings
        features[:, variant] = (blurred @ axes[back].float() - (mean @ axes).float()).view(
            n_characters, n_drawings, -1
        )
    return features


def blur(images: Tensor, sigma: float) -> Tensor:
    """Blur square uint8 images (n, size, size) by a Gaussian of `sigma` pixels, paper all around them.

    The kernel is 1 at its centre: whoever blurs sets the scale afterwards.

    >>> image = torch.zeros(1, 5, 5, dtype=torch.uint8)
    >>> image[0, 2, 2] = 255
    >>> [round(value, 4) for value in blur(image, 1.0)[0, 2, :3].tolist()]
    [0.1353, 0.6065, 1.0]
    """
    places = torch.arange(images.shape[-1])
    kernel = torch.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))
    return torch.cat([kernel @ (part.float() / PIXEL_LEVELS) @ kernel for part in images.split(CHUNK_ROWS)])


def _measure_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) of float32 rows (n, D) and of their outer products (D, D), in float64."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    products = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for part in rows.split(CHUNK_ROWS):
        exact = part.double()
        total += exact.sum(0)
        products += exact.T @ exact
    return total / len(rows), products / len(rows)
