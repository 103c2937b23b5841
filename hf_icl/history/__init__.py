"""What was measured of a run, row by row, and where the numbers come from. Loads nothing that trains."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
