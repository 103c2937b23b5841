"""A task: sequences over a bank, how they reach a model, and the evaluators that ask how they are solved."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
