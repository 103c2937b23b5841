"""Sequences: who sits where. Drawn from (seed, stream, index) alone; indices in, indices out."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
