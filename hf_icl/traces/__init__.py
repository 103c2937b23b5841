"""Models that are there already: one of them, or one along its published checkpoints, measured."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
