"""Runs on the Hugging Face Hub: publishing them, and bringing them back."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
