"""From a config of any kind to its bank."""

from __future__ import annotations

from typing import Annotated

import pydantic

from hf_icl.banks.base import Bank
from hf_icl.banks.features import FeaturesConfig, load_features
from hf_icl.banks.generated import GaussianConfig, SymbolicConfig, load_gaussian, load_symbolic
from hf_icl.banks.omniglot import OmniglotConfig, load_omniglot
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
