"""Gaussian classes, made from a seed alone: the embedded default."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import pydantic
import torch
from torch import Tensor

from hf_icl.banks.bank import Bank, make_bank, track
from hf_icl.banks.config import BankConfigBase, make_outline
from hf_icl.banks.splits import number_exemplars
from hf_icl.config import MOST_CLASSES
from hf_icl.philox import normals, stream_of

FEATURE_STREAM = stream_of("bank/features")
EXEMPLAR_BITS = 21
CHUNK_VALUES = 1 << 20  # normals drawn in one go


class GaussianConfig(BankConfigBase):
    """Gaussian classes in D dimensions; the defaults are the embedded default regime.

    >>> GaussianConfig(n_classes=16).dim
    64
    """

    kind: Literal["gaussian"] = "gaussian"
    licence: ClassVar[str] = "apache-2.0"
    dim: int = pydantic.Field(default=64, ge=1, le=65536, description="Features of an exemplar, D.")
    eps: float = pydantic.Field(
        default=1.2,
        ge=0,
        le=1000,
        description="Within-class noise in units of the distance of a class mean from 0.",
    )
    n_labels: int | None = pydantic.Field(
        default=32,
        ge=1,
        le=MOST_CLASSES,
        description="Labels that the classes share at random; null: labels of their own for every class.",
    )

    @property
    def stored_bytes(self) -> int:
        """Of `dim` numbers per exemplar."""
        return 4 * self.dim * self.n_exemplars * self.n_all_classes

    @property
    def is_stackable(self) -> bool:
        """Vectors have a linear encoder."""
        return True

    def load(self, *, seed: int, progress: bool = False) -> Bank:
        """Draw the classes, see `load_gaussian`."""
        return load_gaussian(self, seed=seed, progress=progress)

    def outline(self, *, seed: int) -> Bank:
        """Return the bank without exemplars."""
        stored = (self.n_all_classes * self.n_exemplars, self.dim), torch.float32
        return make_outline(self, stored, seed=seed, n_exemplars=self.n_exemplars)


def load_gaussian(config: GaussianConfig, *, seed: int = 0, progress: bool = False) -> Bank:
    """Draw Gaussian classes: exemplar x = (mu + eps·eta) / sqrt(1 + eps²), with mu and eta ~ N(0, 1/D).

    mu is the class's, eta the exemplar's, and both depend on (seed, class, exemplar) alone: not on the number
    of classes, exemplars or holdout classes. A feature has variance 1/D, of which 1/(1 + eps²) is between
    classes.

    Source: Reddy 2024 (arXiv 2312.03002).

    >>> bank = load_gaussian(GaussianConfig(n_classes=16, n_holdout_classes=4, dim=8, n_labels=4))
    >>> bank.lookup(torch.tensor([[0, 19]]), torch.tensor([[3, 3]])).shape
    torch.Size([1, 2, 8])
    """
    draw_keys = torch.cat(
        [torch.arange(config.n_classes) * 2, torch.arange(config.n_holdout_classes) * 2 + 1]
    )
    chunk = max(1, CHUNK_VALUES // ((config.n_exemplars + 1) * config.dim))
    parts = track(draw_keys.split(chunk), "Drawing Gaussian classes", show=progress)
    data = torch.cat([_draw_exemplars(part, config, seed) for part in parts])
    return make_bank(
        "gaussian",
        data.flatten(0, 1),
        number_exemplars(len(data), config.n_exemplars),
        scale=1 / math.sqrt(config.dim),
        seed=seed,
        **config.layout,
    )


def _draw_exemplars(draw_keys: Tensor, config: GaussianConfig, seed: int) -> Tensor:
    """Return exemplars (n_classes, n_exemplars, dim) of some classes; draw 0 of each class is its mean."""
    index = (draw_keys[:, None] << EXEMPLAR_BITS) + torch.arange(config.n_exemplars + 1)
    z = normals(index.flatten(), config.dim, seed=seed, stream=FEATURE_STREAM).view(*index.shape, config.dim)
    return ((z[:, :1] + config.eps * z[:, 1:]) / math.sqrt((1 + config.eps**2) * config.dim)).float()
