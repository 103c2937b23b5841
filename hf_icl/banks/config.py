"""What every kind of bank has in its config: how many classes, exemplars and labels, and what is held out."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar, Self

import pydantic
import torch

from hf_icl.banks.bank import Bank, make_bank
from hf_icl.config import MOST_CLASSES, MOST_EXEMPLARS, Config
from hf_icl.errors import ConfigError


class BankConfigBase(Config, abc.ABC):
    """What all kinds of bank share. Classes are numbered from 0, training classes first,
    then holdout classes.

    A kind of bank is a subclass with a `kind` of its own and a `load`, named in `hf_icl.banks.kinds`.
    """

    licence: ClassVar[str | None] = None
    """Under what its exemplars may be used, as the Hub names it; None: that of what they are made from."""

    seed: int | None = pydantic.Field(
        default=None, ge=0, lt=2**63, description="Seed of features, split and labels; null: the run's seed."
    )
    n_classes: int = pydantic.Field(default=768, ge=1, le=MOST_CLASSES, description="Training classes.")
    n_holdout_classes: int = pydantic.Field(
        default=128,
        ge=0,
        le=MOST_CLASSES,
        description="Classes that are never trained on and have no label of their own.",
    )
    n_exemplars: int = pydantic.Field(
        default=20, ge=1, le=MOST_EXEMPLARS, description="Exemplars of each class, those held out included."
    )
    n_holdout_exemplars: int = pydantic.Field(
        default=0,
        ge=0,
        le=MOST_EXEMPLARS,
        description="Last exemplars of each class, kept from the training pool.",
    )
    n_labels: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=MOST_CLASSES,
        description="Labels that the classes share at random; null: labels of their own for every class.",
    )
    labels_per_class: int = pydantic.Field(
        default=1, ge=1, le=1024, description="Different labels of each class (polysemy)."
    )

    @abc.abstractmethod
    def load(self, *, seed: int, progress: bool = False) -> Bank:
        """Make the bank; `load_bank` calls it.

        Args:
            seed: Of features, split and labels.
            progress: Show bars on standard error where it takes long.

        Raises:
            BankError: If the exemplars cannot be had; the message names the file and says what to do.
        """

    def outline(self, *, seed: int) -> Bank:
        """Return a bank of this size without exemplars, see `outline_bank`;
        loaded where the config does not tell it."""
        return self.load(seed=seed)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the exemplars, where the config tells them; 0 where only a file does."""
        return 0

    @property
    def peak_bytes(self) -> int:
        """Bytes that making the bank takes: its exemplars twice, while parts become a whole, and ids."""
        n_ids = self.n_all_classes * ((self.n_exemplars or 1) + 3 * self.labels_per_class)
        return 2 * self.stored_bytes + 8 * n_ids

    @property
    def is_stackable(self) -> bool:
        """Whether models of such a bank have a linear encoder or a table of ids,
        as compiled and stacked steps need."""
        return False

    @property
    def n_head_labels(self) -> int:
        """Labels that a model's head needs, as `assign_labels` counts them."""
        return self.n_classes * self.labels_per_class if self.n_labels is None else self.n_labels

    @property
    def sizes_shape_model(self) -> bool:
        """Whether a model's shapes depend on how many classes and exemplars there are, the head's aside:
        those of a table of ids do, those of a linear encoder do not."""
        return False

    @property
    def n_all_classes(self) -> int:
        """Classes, training and holdout together."""
        return self.n_classes + self.n_holdout_classes

    @property
    def layout(self) -> dict[str, int | None]:
        """What `make_bank` needs of a config."""
        names = ("n_holdout_classes", "n_holdout_exemplars", "n_labels", "labels_per_class")
        return {name: getattr(self, name) for name in names}

    @pydantic.model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.n_exemplars is not None and self.n_holdout_exemplars >= self.n_exemplars:
            rule = f"one of the n_exemplars = {self.n_exemplars} must stay for training"
            raise ConfigError(
                "n_holdout_exemplars", self.n_holdout_exemplars, rule, "Lower n_holdout_exemplars."
            )
        if self.n_labels is not None and self.labels_per_class > self.n_labels:
            rule = f"a class cannot have more different labels than the n_labels = {self.n_labels} there are"
            raise ConfigError("labels_per_class", self.labels_per_class, rule, "Raise n_labels.")
        return self


def make_outline(
    config: BankConfigBase, stored: tuple[Sequence[int], torch.dtype] | None, *, seed: int, n_exemplars: int
) -> Bank:
    """Return a bank of a config's size whose exemplars are on torch's `meta` device.

    Args:
        config: Its kind, classes and labels.
        stored: Shape and type of the exemplars that are kept; None for ids.
        seed: Of the labels.
        n_exemplars: Of each class.
    """
    data = None if stored is None else torch.empty(stored[0], dtype=stored[1], device="meta")
    rows = torch.empty(config.n_all_classes, n_exemplars, dtype=torch.int64, device="meta")
    return make_bank(config.kind, data, rows, seed=seed, scale=1.0, **config.layout)
