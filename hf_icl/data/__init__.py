"""Sequences as a `datasets` data set: builder, registration, export, and putting them on the Hub."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.data.builder": ("HfIclSequences", "SequencesConfig", "load_dataset"),
        "hf_icl.data.config": ("DatasetConfig", "parse_arguments"),
        "hf_icl.data.export": ("export_parquet",),
        "hf_icl.data.packaged": ("register",),
        "hf_icl.data.push": ("push_dataset",),
    },
)
