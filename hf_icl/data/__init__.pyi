from hf_icl.data.builder import (
    HfIclSequences as HfIclSequences,
    SequencesConfig as SequencesConfig,
    load_dataset as load_dataset,
)
from hf_icl.data.config import DatasetConfig as DatasetConfig, parse_arguments as parse_arguments
from hf_icl.data.export import export_parquet as export_parquet
from hf_icl.data.packaged import register as register
from hf_icl.data.push import push_dataset as push_dataset
