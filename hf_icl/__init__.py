"""When in-context learning appears in a Hugging Face model, and when it fades.

Importing the package registers the data sets, so that `datasets.load_dataset("hf_icl", "gaussian")` works.
Everything else is loaded when it is first asked for.
"""

from hf_icl.data.packaged import register_soon
from hf_icl.lazy import attach

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = attach(__name__, __file__)
__all__ = ["__version__", *__all__]

register_soon()
