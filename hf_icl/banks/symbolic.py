"""Exemplars without features: bare ids."""

from __future__ import annotations

from typing import ClassVar, Literal

import pydantic

from hf_icl.banks.bank import Bank, make_bank
from hf_icl.banks.config import BankConfigBase, make_outline
from hf_icl.banks.splits import number_exemplars
from hf_icl.config import MOST_EXEMPLARS


class SymbolicConfig(BankConfigBase):
    """Exemplars without features, for models with a table of token embeddings:
    exemplar e of class k is an id.

    >>> SymbolicConfig(n_classes=16).n_exemplars
    1
    """

    kind: Literal["symbolic"] = "symbolic"
    licence: ClassVar[str] = "apache-2.0"
    n_exemplars: int = pydantic.Field(
        default=1,
        ge=1,
        le=MOST_EXEMPLARS,
        description="Exemplars of each class. A fresh table of embeddings knows nothing of classes: with "
        "more than one exemplar there is nothing to match in context.",
    )

    @property
    def is_stackable(self) -> bool:
        """Ids have a table."""
        return True

    @property
    def sizes_shape_model(self) -> bool:
        """A table has a row for each id."""
        return True

    def load(self, *, seed: int, progress: bool = False) -> Bank:
        """Number the exemplars, see `load_symbolic`."""
        return load_symbolic(self, seed=seed)

    def outline(self, *, seed: int) -> Bank:
        """Return the bank with its ids on torch's `meta` device."""
        return make_outline(self, None, seed=seed, n_exemplars=self.n_exemplars)


def load_symbolic(config: SymbolicConfig, *, seed: int = 0) -> Bank:
    """Number the exemplars: class id · n_exemplars + exemplar id.

    >>> import torch
    >>> bank = load_symbolic(SymbolicConfig(n_classes=3, n_holdout_classes=1, n_exemplars=2))
    >>> bank.lookup(torch.tensor([0, 3]), torch.tensor([1, 0])).tolist(), bank.n_ids
    ([1, 6], 8)
    """
    rows = number_exemplars(config.n_classes + config.n_holdout_classes, config.n_exemplars)
    return make_bank("symbolic", None, rows, seed=seed, **config.layout)
