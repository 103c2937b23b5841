"""Sequences as a `datasets` data set: builder, registration, export, and putting them on the Hub."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
