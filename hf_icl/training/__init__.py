"""Training: trainers, the callback that measures, and what goes with a run's fitting."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
