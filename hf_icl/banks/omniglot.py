"""Omniglot: 1,623 handwritten characters × 20 drawings, as images or as fixed features of them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, Self

import numpy as np
import pydantic
import torch

from hf_icl.banks.bank import Bank, make_bank
from hf_icl.banks.config import BankConfigBase, make_outline
from hf_icl.banks.feature_map import BlurPCAConfig, fit_features
from hf_icl.banks.omniglot_archive import open_drawings
from hf_icl.banks.splits import choose_exemplars, number_exemplars, split_classes
from hf_icl.config import MOST_CLASSES
from hf_icl.errors import ConfigError

AUTHORS_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
N_CHARACTERS, N_DRAWINGS, DRAWN_SIZE = 1623, 20, 105
N_VARIANTS = 8
VARIANT_NAMES = (
    "",
    " mirrored",
    " upside down mirrored",
    " rot180",
    " transposed",
    " rot270",
    " rot90",
    " antitransposed",
)
FEATURE_MAP_SIZE = 28
MAX_FEATURE_MAP_SIZE = 64


class OmniglotConfig(BankConfigBase):
    """Handwritten characters; the defaults are the transience paper's split, 1,600 and 23 characters."""

    kind: Literal["omniglot"] = "omniglot"
    licence: ClassVar[str] = "mit"
    source: str = pydantic.Field(
        default=AUTHORS_URL,
        min_length=1,
        description="Folder with images_background and images_evaluation, zipped or extracted; or an "
        "http(s) address that the two zip archives lie under.",
    )
    size: int | None = pydantic.Field(
        default=None,
        ge=2,
        le=512,
        description="Height and width in pixels; null: as drawn (105), with a feature map 28.",
    )
    augment: bool = pydantic.Field(
        default=False, description="Make the 8 flips and rotations of a character classes of their own."
    )
    feature_map: BlurPCAConfig | None = pydantic.Field(
        default=None, description="Fixed map from drawings to vectors; null: the drawings themselves."
    )
    n_classes: int = pydantic.Field(
        default=1600,
        ge=1,
        le=MOST_CLASSES,
        description="Training classes: characters, or with augment 8 per character.",
    )
    n_holdout_classes: int = pydantic.Field(
        default=23, ge=0, le=MOST_CLASSES, description="Classes never trained on, counted in the same way."
    )
    n_exemplars: int | None = pydantic.Field(
        default=None, ge=1, le=20, description="Drawings of each character, the first so many; null: all 20."
    )

    @pydantic.model_validator(mode="after")
    def _check_omniglot(self) -> Self:
        for field in ("n_classes", "n_holdout_classes"):
            count = getattr(self, field)
            if self.augment and count % N_VARIANTS:
                rule = f"with augment, classes come {N_VARIANTS} per character"
                raise ConfigError(
                    field, count, rule, f"Make it a multiple of {N_VARIANTS}: 12800 and 184 are all."
                )
        if self.feature_map is not None:
            if self.pixels > MAX_FEATURE_MAP_SIZE:
                rule = f"a feature map takes drawings of at most {MAX_FEATURE_MAP_SIZE} pixels"
                raise ConfigError("size", self.size, rule, f"Set size to {FEATURE_MAP_SIZE}.")
            if self.feature_map.n_components > self.pixels**2:
                rule = (
                    f"drawings of {self.pixels}×{self.pixels} have no more than {self.pixels**2} components"
                )
                raise ConfigError(
                    "feature_map.n_components", self.feature_map.n_components, rule, "Lower it."
                )
        return self

    @property
    def pixels(self) -> int | None:
        """Height and width asked of the drawings; None: as drawn."""
        return FEATURE_MAP_SIZE if self.size is None and self.feature_map is not None else self.size

    @property
    def stored(self) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of the tensor that the bank keeps: all drawings, or the features of those used."""
        if self.feature_map is None:
            size = self.pixels or DRAWN_SIZE
            return (N_CHARACTERS * N_DRAWINGS, size, size), torch.uint8
        n_rows = self.n_all_classes * (self.n_exemplars or N_DRAWINGS)
        return (n_rows, self.feature_map.n_components), torch.float32

    @property
    def is_stackable(self) -> bool:
        """Features of drawings have a linear encoder, drawings a ResNet."""
        return self.feature_map is not None

    def load(self, *, seed: int, progress: bool = False) -> Bank:
        """Open the archives, see `load_omniglot`."""
        return load_omniglot(self, seed=seed, progress=progress)

    def outline(self, *, seed: int) -> Bank:
        """Return the bank without drawings."""
        return make_outline(self, self.stored, seed=seed, n_exemplars=self.n_exemplars or N_DRAWINGS)


def load_omniglot(config: OmniglotConfig, *, seed: int = 0, progress: bool = False) -> Bank:
    """Open Omniglot: fetch it, decode it once into the cache, split its characters, and label them.

    The split is a shuffled order of all characters by the seed, training from its start, holdout from its
    end; it does not change with sizes, numbers of classes or `augment`. With `augment`, classes 8c … 8c+7 are
    the variants of one character, so all are on one side. Images are float32 (size, size), 1 on strokes and 0
    on paper.

    Raises:
        BankError: If an archive is missing, broken or incomplete, or holds too few characters or drawings.

    Source: Lake, Salakhutdinov & Tenenbaum, Science 350 (2015); split and variants as in Singh et al. 2023
    (arXiv 2311.08360).
    """
    drawings = open_drawings(config.source, config.pixels, progress=progress)
    n_variants = N_VARIANTS if config.augment else 1
    n_train, n_holdout = config.n_classes // n_variants, config.n_holdout_classes // n_variants
    what = f"{config.source}: characters" + (" (of 8 classes each)" if config.augment else "")
    characters = split_classes(len(drawings.names), n_train, n_holdout, seed=seed, what=what)
    n_exemplars = choose_exemplars(
        drawings.ink.shape[1],
        config.n_exemplars,
        config.n_holdout_exemplars,
        what=f"{config.source}: drawings",
    )
    names = [
        drawings.names[c] + variant for c in characters.tolist() for variant in VARIANT_NAMES[:n_variants]
    ]
    data = torch.from_numpy(drawings.ink).flatten(0, 1)
    first = characters.repeat_interleave(n_variants) * drawings.ink.shape[1]
    rows = first[:, None] + torch.arange(n_exemplars)
    variants = torch.arange(N_VARIANTS).repeat(len(characters)) if config.augment else None
    scale = float(np.sqrt(drawings.mean_square))
    shared = {"seed": seed, "class_names": names, **config.layout}
    pictures = make_bank("omniglot", data, rows, scale=scale, variants=variants, **shared)
    if config.feature_map is None:
        return pictures
    ink = torch.from_numpy(drawings.ink[characters.numpy(), :n_exemplars])
    features = fit_features(ink, n_train, n_variants, config.feature_map, progress=progress)
    data, rows = features.flatten(0, 2), number_exemplars(len(names), n_exemplars)
    bank = make_bank("omniglot", data, rows, scale=config.feature_map.n_components**-0.5, **shared)
    return dataclasses.replace(bank, pictures=pictures)
