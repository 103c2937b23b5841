"""Which heads carry what a model does: scores, a look into any backbone's attention, ablations."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
