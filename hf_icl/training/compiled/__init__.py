"""Training of the native network with steps that are compiled whole, for one run or for many at once."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
