"""Runs: one walk from config to report, in a folder that can be killed and resumed; replicas of one,
together.
"""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
