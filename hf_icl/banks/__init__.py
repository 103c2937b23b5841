"""Exemplar banks: what sequences point to."""

from hf_icl.banks.base import Bank, Vocabulary, assign_labels, make_bank
from hf_icl.banks.cache import find_cache_folder
from hf_icl.banks.embeddings import read_embeddings
from hf_icl.banks.feature_map import BlurPCAConfig
from hf_icl.banks.features import FeaturesConfig
from hf_icl.banks.generated import GaussianConfig, SymbolicConfig
from hf_icl.banks.loading import BankConfig, load_bank, outline_bank
from hf_icl.banks.omniglot import OmniglotConfig
from hf_icl.banks.vocabulary import VocabularyConfig

__all__ = [
    "Bank",
    "BankConfig",
    "BlurPCAConfig",
    "FeaturesConfig",
    "GaussianConfig",
    "OmniglotConfig",
    "SymbolicConfig",
    "Vocabulary",
    "VocabularyConfig",
    "assign_labels",
    "find_cache_folder",
    "load_bank",
    "make_bank",
    "outline_bank",
    "read_embeddings",
]
