"""The kinds of bank there are, and from a config of any kind to its bank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from hf_icl.banks.bank import Bank
from hf_icl.banks.config import BankConfigBase
from hf_icl.banks.features import FeaturesConfig
from hf_icl.banks.gaussian import GaussianConfig
from hf_icl.banks.omniglot import OmniglotConfig
from hf_icl.banks.symbolic import SymbolicConfig
from hf_icl.banks.texts import TextConfig
from hf_icl.banks.vocabulary import VocabularyConfig
from hf_icl.config import Config
from hf_icl.memory import ask_for_memory

BankConfig = Annotated[
    GaussianConfig | SymbolicConfig | OmniglotConfig | FeaturesConfig | VocabularyConfig | TextConfig,
    pydantic.Field(discriminator="kind"),
]
KINDS: dict[str, type[BankConfigBase]] = {
    config.model_fields["kind"].default: config
    for config in (
        GaussianConfig,
        SymbolicConfig,
        OmniglotConfig,
        FeaturesConfig,
        VocabularyConfig,
        TextConfig,
    )
}
"""Name to config class: everything that depends on the kind of a bank is read there."""


class _Checked(Config):
    """Turns what `TaskConfig(bank=…)` takes into a config."""

    bank: BankConfig


def load_bank(config: BankConfigBase | Mapping[str, Any], *, seed: int = 0, progress: bool = False) -> Bank:
    """Make the bank that a config describes.

    Args:
        config: A bank config of any kind, or a mapping as in `TaskConfig(bank={"kind": "gaussian", …})`.
        seed: The run's seed, for a config that names none of its own.
        progress: Show progress bars on standard error where it takes long.

    Raises:
        BankError: If the exemplars cannot be had; the message names the file and says what to do.
        ConfigError: If a mapping is not such a config, or there is no memory for the exemplars.

    >>> import torch
    >>> bank = load_bank(GaussianConfig(n_classes=16, n_holdout_classes=4, dim=8))
    >>> bank.lookup(*torch.tensor([[3], [19]])).shape
    torch.Size([1, 8])
    """
    config = config if isinstance(config, BankConfigBase) else _Checked(bank=config).bank
    what = f"a bank of {config.n_all_classes:,} classes × {config.n_exemplars} exemplars"
    ask_for_memory(config.peak_bytes, "n_classes", config.n_classes, what)
    return config.load(seed=seed if config.seed is None else config.seed, progress=progress)


def reads_tokenizer(bank: Mapping[str, Any]) -> bool:
    """Return whether a bank's settings are of a kind whose exemplars are those of a model's tokenizer.

    >>> reads_tokenizer({"kind": "texts"}), reads_tokenizer({"kind": "gaussian"})
    (True, False)
    """
    reading = [name for name, made in KINDS.items() if made in (VocabularyConfig, TextConfig)]
    return bank.get("kind") in reading  # a list, as what is looked for may be anything


def take_from_model(bank: Mapping[str, Any], model: str, revision: str | None = None) -> dict[str, Any]:
    """Return a bank's settings, with a model that its tokens come from where they need one and name none.

    Args:
        bank: Settings as in `TaskConfig(bank={"kind": "vocabulary", …})`.
        model: A folder, or a name on the Hub.
        revision: Branch, tag or commit on the Hub.

    >>> take_from_model({"kind": "vocabulary", "n_classes": 8}, "me/model")
    {'kind': 'vocabulary', 'n_classes': 8, 'source': 'me/model', 'revision': None}
    >>> take_from_model({"kind": "gaussian"}, "me/model")
    {'kind': 'gaussian'}
    """
    if not reads_tokenizer(bank) or bank.get("source") is not None:
        return dict(bank)
    return {**bank, "source": model, "revision": revision}


def outline_bank(config: BankConfigBase, *, seed: int = 0) -> Bank:
    """Return a bank as large as the one that a config describes, its exemplars on torch's `meta` device.

    Nothing is drawn, fetched or decoded but labels, so this takes no time and no memory to speak of. Kinds
    whose config does not tell how large they are (`features`, `vocabulary`) are loaded.

    >>> bank = outline_bank(OmniglotConfig())
    >>> bank.kind, bank.shape, bank.n_labels, bank.data.nbytes, bank.data.device
    ('images', (105, 105), 1600, 357871500, device(type='meta'))
    """
    return config.outline(seed=seed if config.seed is None else config.seed)
