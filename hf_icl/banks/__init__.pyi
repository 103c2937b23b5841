from hf_icl.banks.bank import Bank as Bank, Vocabulary as Vocabulary, make_bank as make_bank
from hf_icl.banks.cache import find_cache_folder as find_cache_folder
from hf_icl.banks.config import BankConfigBase as BankConfigBase
from hf_icl.banks.embeddings import read_embeddings as read_embeddings
from hf_icl.banks.facts import describe_bank as describe_bank, tell_bank as tell_bank
from hf_icl.banks.feature_map import BlurPCAConfig as BlurPCAConfig
from hf_icl.banks.features import FeaturesConfig as FeaturesConfig
from hf_icl.banks.gaussian import GaussianConfig as GaussianConfig
from hf_icl.banks.kinds import (
    KINDS as KINDS,
    BankConfig as BankConfig,
    load_bank as load_bank,
    outline_bank as outline_bank,
)
from hf_icl.banks.omniglot import OmniglotConfig as OmniglotConfig
from hf_icl.banks.own import (
    bank_from_dataset as bank_from_dataset,
    bank_from_images as bank_from_images,
    bank_from_numpy as bank_from_numpy,
)
from hf_icl.banks.splits import assign_labels as assign_labels
from hf_icl.banks.symbolic import SymbolicConfig as SymbolicConfig
from hf_icl.banks.texts import TextConfig as TextConfig
from hf_icl.banks.vocabulary import VocabularyConfig as VocabularyConfig
