"""Sequences as a `datasets` data set: builder, registration, export, and a look at a few of them."""

from hf_icl.data.builder import HfIclSequences, SequencesConfig, load_dataset
from hf_icl.data.config import DatasetConfig, parse_arguments
from hf_icl.data.export import export_parquet
from hf_icl.data.packaged import register
from hf_icl.data.rows import batch_from_rows
from hf_icl.data.show import render_sequences

__all__ = [
    "DatasetConfig",
    "HfIclSequences",
    "SequencesConfig",
    "batch_from_rows",
    "export_parquet",
    "load_dataset",
    "parse_arguments",
    "register",
    "render_sequences",
]
