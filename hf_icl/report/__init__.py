"""What a person or the Hub sees of runs: numbers, figures, page, model card. Loads nothing that trains."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
