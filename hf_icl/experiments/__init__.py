"""Claims about learning in context and in weights: fixed beforehand, run by sweeps, and judged over seeds."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
