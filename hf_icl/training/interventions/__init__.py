"""What is changed in a model while it learns: attention, weights, penalties; from a step on, or once a
measure has fallen."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
