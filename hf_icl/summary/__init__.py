"""What a history says, in numbers, and how sure they are. Arrays in, numbers out."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
