"""Small models of how ICL and IWL compete, integrated and fitted to the curves of a run."""

from hf_icl.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
