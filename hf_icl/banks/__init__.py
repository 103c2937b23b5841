"""Exemplar banks: what sequences point to."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.banks.bank": ("Bank", "BankConfigBase", "Vocabulary", "assign_labels", "make_bank"),
        "hf_icl.banks.cache": ("find_cache_folder",),
        "hf_icl.banks.embeddings": ("read_embeddings",),
        "hf_icl.banks.facts": ("describe_bank", "tell_bank"),
        "hf_icl.banks.feature_map": ("BlurPCAConfig",),
        "hf_icl.banks.features": ("FeaturesConfig",),
        "hf_icl.banks.gaussian": ("GaussianConfig",),
        "hf_icl.banks.kinds": ("KINDS", "BankConfig", "load_bank", "outline_bank"),
        "hf_icl.banks.omniglot": ("OmniglotConfig",),
        "hf_icl.banks.symbolic": ("SymbolicConfig",),
        "hf_icl.banks.vocabulary": ("VocabularyConfig",),
    },
)
