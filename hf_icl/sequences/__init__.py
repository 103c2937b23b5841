"""Sequences: who sits where. Drawn from (seed, stream, index) alone; indices in, indices out."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hf_icl.sequences.batch": ("SequenceBatch", "batch_from_rows"),
        "hf_icl.sequences.sampler": ("Sampler",),
        "hf_icl.sequences.spec": ("Places", "Role", "SequenceSpec", "count_places"),
    },
)
