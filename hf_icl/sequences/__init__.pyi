from hf_icl.sequences.batch import SequenceBatch as SequenceBatch, batch_from_rows as batch_from_rows
from hf_icl.sequences.sampler import Sampler as Sampler
from hf_icl.sequences.spec import (
    Places as Places,
    Role as Role,
    SequenceSpec as SequenceSpec,
    count_places as count_places,
)
