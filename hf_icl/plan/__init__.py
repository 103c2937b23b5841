"""What a run will cost, counted on a model that is never allocated: parameters, FLOPs, memory,
checkpoints."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
