"""From a config of any kind to its bank."""

from __future__ import annotations

from typing import Annotated

import pydantic
import torch

from hf_icl.banks.base import Bank, make_bank
from hf_icl.banks.features import FeaturesConfig, load_features
from hf_icl.banks.generated import GaussianConfig, SymbolicConfig, load_gaussian, load_symbolic
from hf_icl.banks.omniglot import N_DRAWINGS, OmniglotConfig, load_omniglot
from hf_icl.banks.vocabulary import VocabularyConfig, load_vocabulary

BankConfig = Annotated[
    GaussianConfig | SymbolicConfig | OmniglotConfig | FeaturesConfig | VocabularyConfig,
    pydantic.Field(discriminator="kind"),
]


def load_bank(
    config: GaussianConfig | SymbolicConfig | OmniglotConfig | FeaturesConfig | VocabularyConfig,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Bank:
    """Make the bank that a config describes.

    Args:
        config: A bank config of any kind.
        seed: The run's seed, for a config that names none of its own.
        progress: Show progress bars on standard error where it takes long.

    Raises:
        BankError: If the exemplars cannot be had; the message names the file and says what to do.

    >>> import torch
    >>> load_bank(GaussianConfig(n_classes=16, n_holdout_classes=4, dim=8)).lookup(*torch.tensor([[3], [19]])).shape
    torch.Size([1, 8])
    """
    seed = seed if config.seed is None else config.seed
    match config:
        case GaussianConfig():
            return load_gaussian(config, seed=seed, progress=progress)
        case SymbolicConfig():
            return load_symbolic(config, seed=seed)
        case OmniglotConfig():
            return load_omniglot(config, seed=seed, progress=progress)
        case FeaturesConfig():
            return load_features(config, seed=seed, progress=progress)
        case VocabularyConfig():
            return load_vocabulary(config, seed=seed, progress=progress)


def outline_bank(
    config: GaussianConfig | SymbolicConfig | OmniglotConfig | FeaturesConfig | VocabularyConfig,
    *,
    seed: int = 0,
) -> Bank:
    """Return a bank as large as the one that a config describes, its exemplars on torch's `meta` device.

    Nothing is drawn, fetched or decoded but labels, so this takes no time and no memory to speak of. Kinds whose
    config does not tell how large they are (`features`, `vocabulary`) are loaded.

    >>> bank = outline_bank(OmniglotConfig())
    >>> bank.kind, bank.shape, bank.n_labels, bank.data.nbytes, bank.data.device
    ('images', (105, 105), 1600, 357871500, device(type='meta'))
    """
    match config:
        case GaussianConfig():
            stored = (config.n_all_classes * config.n_exemplars, config.dim), torch.float32
        case SymbolicConfig():
            stored = None
        case OmniglotConfig():
            stored = config.stored
        case _:
            return load_bank(config, seed=seed)
    data = None if stored is None else torch.empty(stored[0], dtype=stored[1], device="meta")
    rows = torch.empty(
        config.n_all_classes, config.n_exemplars or N_DRAWINGS, dtype=torch.int64, device="meta"
    )
    seed = seed if config.seed is None else config.seed
    return make_bank(config.kind, data, rows, seed=seed, scale=1.0, **config.layout)
