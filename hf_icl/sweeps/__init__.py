"""Sweeps: a grid or list of runs, stacked where they can be, done by the cores, GPUs or machines at hand."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
